"""What the tracker knows of a refresh, whoever ran it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from packing.commit import manifest_uri
from packing.errors import TrackerRefusedError, TrackingError
from packing.in_memory import MemoryRun, MemoryStorage, MemoryTracker
from packing.lineage import find_recipe_run
from packing.manifest import read_manifest
from packing.parallel import serial
from packing.pipeline import Refresh, refresh
from packing.ports import FoundRuns
from packing.recipe import recipe_to_json, recipe_uri
from packing.report import RefreshRecord, mark_committed
from packing.report.record import registered_name
from packing.types import Parameters
from tests.builders import random_sizes, raw_shard, stages_of, store_with

PARAMETERS = Parameters(max_sequence_length=64, max_predictions_per_sequence=10, partition_bytes=12_000)
DESTINATIONS = ("/out", "/out-", "/out/x", "s3://out:x", "/" + "o" * 300)
TAGS = {"stowage.triggered_by": "admin, by hand"}


@pytest.fixture
def storage() -> MemoryStorage:
    return store_with({f"part-{i}": raw_shard(random_sizes(30, seed=i), seed=i) for i in range(4)})


def recorded(storage: MemoryStorage, tracker: MemoryTracker, destination: str = "/out", **options: Any) -> Refresh:
    record = RefreshRecord(storage, tracker, "/raw", destination, TAGS)
    outcome = refresh(
        storage,
        stages_of(serial(storage)),
        "/raw",
        destination,
        PARAMETERS,
        **{"on_recipe": record.add_recipe, "on_manifest": record.add_manifest, **options},
    )
    record.mark_committed(outcome.recipe, returned=outcome.returned)
    return outcome


def current(tracker: MemoryTracker, destination: str = "/out") -> tuple[str, int]:
    """The recipe that is current, and the number of versions."""
    registered = tracker.registered[registered_name(destination)]
    return registered.versions[registered.current][1]["recipe_id"], len(registered.versions)


def refuse(*_: object, **__: object) -> str:
    """As MLflow does whose user may not change a registered model."""
    raise TrackerRefusedError("http://mlflow: MLflow failed (Permission denied)")


class WithoutRegistry(MemoryTracker):
    """A server that registers nothing."""

    def set_current(self, name: str, run_id: str, *, tags: Mapping[str, str], description: str) -> str:  # noqa: ARG002 - the port's signature
        raise TrackingError("http://mlflow: MLflow failed (forbidden)")


def test_a_dataset_exists_whatever_becomes_of_the_alias(
    storage: MemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = recorded(storage, WithoutRegistry())
    assert read_manifest(storage, outcome.manifest_uri) == outcome.manifest
    assert "forbidden" in caplog.text
    assert registered_name("/out") in caplog.text


def test_names_that_are_no_text_are_recorded(storage: MemoryStorage) -> None:
    storage.objects["/raw/part-\udcff"] = raw_shard(random_sizes(5, seed=9), seed=9)
    tracker = MemoryTracker()
    recorded(storage, tracker)
    (run,) = tracker.runs.values()
    assert b"part-\\udcff" in run.artifacts["recipe/report.html"]
    assert run.tags["mlflow.note.content"].encode()


def test_a_recipes_run_has_all_of_it(storage: MemoryStorage) -> None:
    tracker = MemoryTracker()
    outcome = recorded(storage, tracker)
    (run,) = tracker.runs.values()
    statistics = recipe_to_json(outcome.recipe)["statistics"]
    found = {metric.key: metric.value for metric in run.metrics}
    assert found.pop("partitions_reused") == 0
    assert found == {name: value for name, value in statistics.items() if not isinstance(value, str)}
    assert run.status == "FINISHED"
    assert run.params["recipe_id"] == outcome.recipe.recipe_id
    assert run.artifacts["recipe/recipe.json"] == storage.read(recipe_uri("/out", outcome.recipe.recipe_id))
    assert run.artifacts["recipe/manifest.json"] == storage.read(outcome.manifest_uri)
    assert run.tags["stowage.manifest"] == outcome.manifest_uri
    assert run.tags["stowage.triggered_by"] == "admin, by hand"
    assert "admin, by hand" in run.tags["mlflow.note.content"]
    assert run.artifacts["recipe/summary.md"].decode() == run.tags["mlflow.note.content"]
    pictures = {path for path in run.artifacts if path.endswith(".png")}
    assert pictures == {f"recipe/figures/{name}.png" for name in ("length_histogram", "pack_composition", "padding")}
    assert b"<!doctype html>" in run.artifacts["recipe/report.html"]
    assert "recipe/tables/top_strategies.json" in run.tables


def test_raw_and_packed_dataset_are_the_runs_inputs(storage: MemoryStorage) -> None:
    tracker = MemoryTracker()
    outcome = recorded(storage, tracker)
    (run,) = tracker.runs.values()
    raw, packed = run.inputs
    assert (raw.name, raw.uri, raw.context) == ("/raw", "/raw", "raw")
    assert outcome.recipe.fingerprint.startswith(raw.digest)
    assert (packed.name, packed.uri, packed.context) == ("/out", outcome.manifest_uri, "packed")
    assert outcome.recipe.recipe_id.startswith(packed.digest)
    assert all(32 <= len(dataset.digest) <= 36 for dataset in run.inputs)
    totals = json.loads(storage.read(outcome.manifest_uri))["totals"]
    assert packed.profile == {"recipe_id": outcome.recipe.recipe_id, **totals}
    assert raw.profile["sequences"] == outcome.recipe.histogram.sequences == 120


def test_what_the_store_held_already_is_counted(storage: MemoryStorage) -> None:
    tracker = MemoryTracker()
    first = recorded(storage, tracker)
    storage.write("/raw/part-9", raw_shard(random_sizes(30, seed=9), seed=9))
    second = recorded(storage, tracker)
    run = list(tracker.runs.values())[1]
    reused = {p.digest for p in first.recipe.partitions} & {p.digest for p in second.recipe.partitions}
    assert {metric.value for metric in run.metrics if metric.key == "partitions_reused"} == {len(reused)}
    assert len(reused) == len(second.recipe.partitions) - second.partitions_written > 0


def test_going_back_to_an_earlier_recipe_makes_that_one_current(storage: MemoryStorage) -> None:
    tracker = MemoryTracker()
    first = recorded(storage, tracker).recipe.recipe_id
    assert current(tracker) == (first, 1)
    added = raw_shard(random_sizes(30, seed=9), seed=9)
    storage.write("/raw/part-9", added)
    second = recorded(storage, tracker).recipe.recipe_id
    assert current(tracker) == (second, 2)
    storage.delete("/raw/part-9")
    outcome = recorded(storage, tracker)
    assert (outcome.unchanged, outcome.returned, outcome.recipe.recipe_id) == (True, True, first)
    assert current(tracker) == (first, 2)
    told = [value for run in tracker.runs.values() for name, value in run.tags.items() if "returned" in name]
    assert (told, len(tracker.runs)) == (["admin, by hand"], 2)
    assert not recorded(storage, tracker).returned
    assert len([name for run in tracker.runs.values() for name in run.tags if "returned" in name]) == 1


def test_a_refused_alias_is_told_also_if_mlflow_then_goes_away(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MemoryTracker()
    recipe = recorded(storage, tracker).recipe

    def fails(error: TrackingError) -> str:
        with monkeypatch.context() as patch:
            find_runs = tracker.find_runs

            def find(experiment: str, **wanted: Any) -> FoundRuns:
                if "destination" in wanted.get("params", {}):
                    raise error
                return find_runs(experiment, **wanted)

            patch.setattr(tracker, "find_runs", find)
            return mark_committed(tracker, storage, recipe.recipe_id, "/out")

    assert fails(TrackingError("away")) == ""
    assert "EDIT on the experiment packing-recipes" in fails(TrackerRefusedError("forbidden"))
    monkeypatch.setattr(tracker, "set_current", refuse)
    for error in (TrackingError("away"), TrackerRefusedError("forbidden")):
        assert "EDIT on the registered models recipes-*" in fails(error)


def test_a_refusal_is_no_failure_that_passes_and_keeps_nothing_else_from_being_told(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MemoryTracker()
    first = recorded(storage, tracker)
    run, *_ = tracker.runs.values()
    del run.tags["stowage.manifest"]
    storage.write("/raw/part-9", raw_shard(random_sizes(30, seed=9), seed=9))
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "set_current", refuse)
        second = recorded(storage, tracker)
    assert current(tracker)[0] == first.recipe.recipe_id
    assert run.tags["stowage.manifest"] == first.manifest_uri
    assert "the next refresh mends" not in caplog.text
    assert f"{registered_name('/out')} stays at an earlier recipe" in caplog.text
    assert [found.tags.get("stowage.alias") for found in tracker.runs.values()] == [None, "refused"]
    assert recorded(storage, tracker).unchanged
    assert current(tracker)[0] == second.recipe.recipe_id
    assert [found.tags.get("stowage.alias") for found in tracker.runs.values()] == [None, "set"]


def test_a_refresh_that_changed_nothing_leaves_what_is_current(storage: MemoryStorage) -> None:
    tracker = MemoryTracker()
    recorded(storage, tracker)
    before = json.dumps(tracker.registered, default=vars)
    assert recorded(storage, tracker).unchanged
    assert json.dumps(tracker.registered, default=vars) == before


def test_destinations_have_names_of_their_own(storage: MemoryStorage) -> None:
    tracker = MemoryTracker()
    for destination in DESTINATIONS:
        outcome = recorded(storage, tracker, destination)
        assert current(tracker, destination) == (outcome.recipe.recipe_id, 1)
    for destination in DESTINATIONS:  # which have the same recipe
        run = find_recipe_run(tracker, outcome.recipe.recipe_id, manifest_uri(destination, outcome.recipe.recipe_id))
        assert run is not None
        assert run.params["destination"] == destination
    assert len(tracker.registered) == 5
    assert all(not set(name) & set("/:") and len(name) < 200 for name in tracker.registered)


def test_a_dataset_that_was_never_recorded_is_not_registered(storage: MemoryStorage) -> None:
    recorded(storage, MemoryTracker())
    tracker = MemoryTracker()
    assert recorded(storage, tracker).unchanged
    assert (tracker.registered, tracker.runs) == ({}, {})


def test_what_the_tracker_could_not_be_told_is_told_by_the_next_refresh(storage: MemoryStorage) -> None:
    """The manifest comes last: a dataset that exists is recorded."""
    tracker = MemoryTracker()

    def away(*_: object) -> None:
        raise TrackingError("connection refused")

    with pytest.raises(TrackingError):
        recorded(storage, tracker, on_manifest=away)
    assert not [uri for uri in storage.objects if "/manifests/" in uri]
    outcome = recorded(storage, tracker)
    assert not outcome.unchanged
    assert find_recipe_run(tracker, outcome.recipe.recipe_id, outcome.manifest_uri) is not None


class FullRun(MemoryRun):
    def log_tables(self, tables: object) -> None:  # noqa: ARG002 - the port's signature
        raise TrackingError("disk full")


def test_a_run_that_cannot_be_recorded_has_failed(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MemoryTracker()
    run = tracker.runs["full"] = FullRun("full", "e", "n", {}, {})
    monkeypatch.setattr(tracker, "start_run", lambda *_, **__: run)
    with pytest.raises(TrackingError, match="disk full"):
        recorded(storage, tracker)
    assert run.status == "FAILED"


@pytest.mark.parametrize(
    ("source", "destination", "same"), [("/raw", "/out", True), ("/moved", "/out", False), ("/raw", "/other", False)]
)
def test_a_recipe_without_its_dataset_keeps_its_run_between_the_same_places(
    storage: MemoryStorage, source: str, destination: str, *, same: bool
) -> None:
    """A run's places are params, which MLflow lets nobody change."""
    recipe, tracker = recorded(storage, MemoryTracker()).recipe, MemoryTracker()
    for places in (("/raw", "/out"), (source, destination)):
        RefreshRecord(storage, tracker, *places, TAGS).add_recipe(recipe)
    assert len(tracker.runs) == (1 if same else 2)
