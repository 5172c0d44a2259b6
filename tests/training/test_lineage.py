"""Training runs and the runs of the recipes that they train on name each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from packing.adapters import NullTracker
from packing.errors import TrackingError
from packing.in_memory import MemoryRun, MemoryStorage, MemoryTracker
from packing.lineage import packed_dataset
from packing.manifest import read_manifest
from packing.ports import InputDataset
from tests.training.packs import write_dataset
from training.config import TrainingConfig
from training.examples import Examples, open_examples
from training.shards import Cache
from training.tracking import PARENT, open_run, start_run


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def data(storage: MemoryStorage, tmp_path: Path) -> list[Examples]:
    """A packed dataset and the raw one."""
    return [open_examples(storage, uri, Cache(tmp_path)) for uri in write_dataset(storage, "/data")]


def recipe_run(tracker: MemoryTracker, examples: Examples, **changes: str) -> MemoryRun:
    """What a refresh records of the recipe."""
    params = {"recipe_id": str(examples.recipe_id), **changes}
    manifest = changes.get("manifest", examples.uri)
    return tracker.start_run("packing-recipes", "recipe", params=params, tags={"stowage.manifest": manifest})


def test_both_runs_name_each_other(storage: MemoryStorage, data: list[Examples]) -> None:
    tracker = MemoryTracker()
    recipe_run(tracker, data[0])
    recipe = recipe_run(tracker, data[0])
    recipe_run(tracker, data[0], manifest="/elsewhere/manifests/recipe.json")
    recipe_run(tracker, data[0], recipe_id="another")
    run = tracker.runs[start_run(tracker, "packed", {}, data).run_id]
    assert run.tags["stowage.recipe_run"] == recipe.run_id
    assert f"(#/runs/{recipe.run_id})" in run.tags["mlflow.note.content"]
    listed = {other.run_id: [tag for tag in other.tags if "training" in tag] for other in tracker.runs.values()}
    assert listed == {**{run_id: [] for run_id in listed}, recipe.run_id: [f"stowage.training.{run.run_id}"]}
    assert run.inputs == [packed_dataset(read_manifest(storage, data[0].uri), data[0].uri, "training")]


@pytest.mark.parametrize("tags", [{"stowage.packed"}, {"stowage.manifest"}, {"stowage.packed", "stowage.manifest"}])
def test_the_recipes_run_is_found_whatever_it_says_of_the_manifest(data: list[Examples], tags: set[str]) -> None:
    """The manifest that is trained on exists; an older record has no other tag, a newer one may not have been told."""
    tracker = MemoryTracker()
    recipe, solved = recipe_run(tracker, data[0]), recipe_run(tracker, data[0])
    recipe.tags, solved.tags = dict.fromkeys(tags, data[0].uri), {}
    run = tracker.runs[start_run(tracker, "packed", {}, data).run_id]
    assert run.tags["stowage.recipe_run"] == recipe.run_id


def test_trainings_that_start_at_once_are_all_listed(data: list[Examples]) -> None:
    tracker = MemoryTracker()
    recipe = recipe_run(tracker, data[0])
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: start_run(tracker, "packed", {}, data[:1]).run_id, range(24)))
    assert {tag for tag in recipe.tags if "training" in tag} == {f"stowage.training.{run_id}" for run_id in runs}
    assert len(set(runs)) == 24


def test_a_recipe_that_was_not_recorded_is_no_error(data: list[Examples]) -> None:
    tracker = MemoryTracker()
    run = tracker.runs[start_run(tracker, "packed", {}, data).run_id]
    assert "stowage.recipe_run" not in run.tags
    assert len(run.inputs) == 1
    assert list(tracker.runs) == [run.run_id]


def test_without_a_server_nothing_is_joined(data: list[Examples]) -> None:
    assert start_run(NullTracker(), "packed", {}, data).run_id == ""


def test_a_comparison_stands_for_its_sides(data: list[Examples]) -> None:
    tracker = MemoryTracker()
    recipe = recipe_run(tracker, data[0])
    config = TrainingConfig(data=(data[0].uri,), sequences=1)
    parent = start_run(tracker, "packed against padded", {}, data[:1])
    side = tracker.runs[open_run(tracker, config, {}, data[:1], "", {PARENT: parent.run_id}).run_id]
    assert [tag for tag in recipe.tags if "training" in tag] == [f"stowage.training.{parent.run_id}"]
    assert side.tags["stowage.recipe_run"] == recipe.run_id
    assert len(side.inputs) == 1


def test_several_recipes_are_all_named(data: list[Examples]) -> None:
    tracker = MemoryTracker()
    other = replace(data[0], uri="/data/manifests/other.json")
    recipes = [recipe_run(tracker, data[0]), recipe_run(tracker, other)]
    run = tracker.runs[start_run(tracker, "packed", {}, [data[0], other]).run_id]
    assert run.tags["stowage.recipe_run"] == " ".join(recipe.run_id for recipe in recipes)
    assert all(f"stowage.training.{run.run_id}" in recipe.tags for recipe in recipes)


class ForeignRun(MemoryRun):
    def set_tags(self, tags: Mapping[str, str]) -> None:  # noqa: ARG002 - the port's signature
        raise TrackingError("PERMISSION_DENIED")


def test_a_recipes_run_that_may_not_be_edited_does_not_keep_anybody_from_training(
    data: list[Examples], caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MemoryTracker()
    recipe = recipe_run(tracker, data[0])
    tracker.runs[recipe.run_id] = ForeignRun(recipe.run_id, recipe.experiment, "", recipe.params, recipe.tags)
    run = tracker.runs[start_run(tracker, "packed", {}, data).run_id]
    assert run.tags["stowage.recipe_run"] == recipe.run_id
    assert "does not list this training: PERMISSION_DENIED" in caplog.text


class FullRun(MemoryRun):
    def log_inputs(self, datasets: Iterable[InputDataset]) -> None:  # noqa: ARG002 - the port's signature
        raise TrackingError("disk full")


def test_a_run_that_cannot_be_joined_has_failed(data: list[Examples], monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MemoryTracker()
    run = FullRun("full", "e", "n", {}, {})
    monkeypatch.setattr(tracker, "start_run", lambda *_, **__: run)
    with pytest.raises(TrackingError, match="disk full"):
        start_run(tracker, "packed", {}, data)
    assert run.status == "FAILED"
