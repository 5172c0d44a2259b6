"""The stages as the DAG calls them, over a store and a tracker in memory."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packing.adapters import open_storage
from packing.errors import (
    StorageError,
    StowageError,
    TrackerAwayError,
    TrackerRefusedError,
    TrackingError,
    UsageError,
)
from packing.in_memory import MemoryStorage, MemoryTracker
from packing.parallel import serial
from packing.ports import Buffer, FoundRuns, ObjectInfo
from packing.predict import FIGURES
from packing.recipe import read_recipe, recipe_uri
from packing.signing import check_signature
from packing.verify import require, verify_dataset
from tests.builders import random_sizes, raw_shard, store_with
from tests.dags.refreshing import PARAMS, refresh, refused, scan_and_solve
from tests.packing.test_signing import KEY
from tests.report.test_record import refuse

pytestmark = pytest.mark.slow


@pytest.fixture
def storage(stages: Any, monkeypatch: pytest.MonkeyPatch) -> MemoryStorage:
    storage = store_with({f"part-{i}": raw_shard(random_sizes(30, seed=i), seed=i) for i in range(6)})
    tracker = MemoryTracker()
    monkeypatch.setattr(stages, "open_storage", lambda: storage)
    monkeypatch.setattr(stages, "open_tracker", lambda: tracker)
    monkeypatch.setattr(stages, "signing_key", lambda: None)
    return storage


def test_a_refresh_broken_off_before_the_write_goes_on_where_the_data_is_now(
    stages: Any, storage: MemoryStorage
) -> None:
    """The stored recipe names shards where they were, and that only says where an auditor should have looked."""
    first, _ = scan_and_solve(stages, PARAMS)
    for uri in [uri for uri in storage.objects if uri.startswith("/raw/")]:
        storage.objects[uri.replace("/raw/", "/moved/")] = storage.objects.pop(uri)
    moved = {**PARAMS, "source": "/moved"}
    solved, writes = scan_and_solve(stages, moved)
    assert solved["recipe_id"] == first["recipe_id"]
    assert len(writes) == 2
    for group in writes:
        stages.write_group(group, moved)
    committed = stages.commit(solved, moved).dataset
    require(verify_dataset(storage, serial(storage), committed["manifest"], "/moved"))

    again, writes = scan_and_solve(stages, moved)
    assert (again["exists"], writes) == (True, [])


@pytest.mark.usefixtures("stages")
def test_groups_keep_order_and_are_balanced() -> None:
    from stowage_airflow.groups import MAX_GROUPS, balanced_groups

    for count, tasks in ((0, 4), (1, 4), (3, 4), (100, 4), (5000, 4)):
        items = list(range(count))
        groups = balanced_groups(items, lambda item: item % 7 * 1_000_000, tasks)
        assert [item for group in groups for item in group] == items
        assert len(groups) <= MAX_GROUPS
        assert all(groups)
    assert len(balanced_groups(list(range(100)), lambda _: 1, 4)) == 4
    assert {len(group) for group in balanced_groups(list(range(100)), lambda _: 1, 4)} == {25}


def test_where_a_signature_is_required_nothing_is_committed_or_audited_without_a_key(
    stages: Any, audits: Any, refreshed: tuple[dict[str, Any], MemoryTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the task may be tried again, as the secrets backend may come back."""
    params, tracker = refreshed
    solved, writes = scan_and_solve(stages, params)
    for group in writes:
        stages.write_group(group, params)
    before = contents(params["destination"])
    with refused(match="^connection stowage_signing: expected a key to sign with, .*clear this task"):
        stages.commit(solved, params, require_signature=True)
    (run,) = tracker.runs.values()
    assert not [tag for tag in run.tags if tag.startswith("stowage.")]
    assert contents(params["destination"]) == before

    monkeypatch.setattr(stages, "signing_key", lambda: KEY)
    committed = stages.commit(solved, params, require_signature=True).dataset
    assert check_signature(open_storage(), committed["manifest"], KEY.public).passed
    monkeypatch.setattr(stages, "signing_key", lambda: None)
    again, _ = scan_and_solve(stages, params)
    assert stages.commit(again, params, require_signature=True).dataset == committed, "nothing is left to sign"
    monkeypatch.setattr(audits, "_audit_process", None)
    with refused(match="^connection stowage_signing: "):
        audits.audit(committed, [], params, require_signature=True)
    assert "stowage.audit" not in run.tags


def contents(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_refresh_that_follows_a_rejected_one_goes_on_with_its_run(stages: Any, storage: MemoryStorage) -> None:
    """As long as no packed dataset came of it, and wherever the data was read from the same place."""
    tracker = stages.open_tracker()
    groups = stages.list_shards(PARAMS, 2)
    for group in groups:
        stages.scan_group(group, PARAMS)
    first, _ = stages.solve(groups, PARAMS, {"stowage.triggered_by": "schedule"}, 2)
    tracker.runs[first["run_id"]].tags["stowage.approval"] = "rejected by op"
    again, writes = stages.solve(groups, PARAMS, {"stowage.triggered_by": "ada, by hand"}, 2)
    assert again == first
    (run,) = tracker.runs.values()
    assert (run.tags["stowage.approval"], run.tags["stowage.triggered_by"]) == ("rejected by op", "ada, by hand")
    assert b"ada, by hand" in run.artifacts["recipe/summary.md"]
    for group in writes:
        stages.write_group(group, PARAMS)
    stages.commit(again, PARAMS)
    for uri in [uri for uri in storage.objects if "/manifests/" in uri]:
        storage.delete(uri)
    assert stages.solve(groups, PARAMS, {}, 2)[0]["run_id"] not in {"", run.run_id}, "its dataset existed"


def test_a_run_that_is_not_whole_is_not_gone_on_with(stages: Any, storage: MemoryStorage) -> None:  # noqa: ARG001
    first, _ = scan_and_solve(stages, PARAMS)
    stages.open_tracker().runs[first["run_id"]].status = "FAILED"
    assert scan_and_solve(stages, PARAMS)[0]["run_id"] != first["run_id"]


def test_a_commit_says_that_the_dataset_exists_once_it_does_and_is_retried_until_then(
    stages: Any, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    class Full(MemoryStorage):
        def write(self, uri: str, data: Buffer) -> ObjectInfo:
            if "/manifests/" in uri:
                raise StorageError(f"{uri}: disk full")
            return super().write(uri, data)

    solved, writes = scan_and_solve(stages, PARAMS)
    for group in writes:
        stages.write_group(group, PARAMS)
    run = stages.open_tracker().runs[solved["run_id"]]
    full = Full()
    full.objects = storage.objects
    with monkeypatch.context() as patch:
        patch.setattr(stages, "open_storage", lambda: full)
        with pytest.raises(AirflowException, match="disk full") as caught:
            stages.commit(solved, PARAMS)
    assert not isinstance(caught.value, AirflowFailException)
    assert "stowage.manifest" not in run.tags
    for _ in range(2):
        committed = stages.commit(solved, PARAMS).dataset
        assert run.tags["stowage.manifest"] == committed["manifest"]
        assert committed["manifest"] in storage.objects
    assert list(stages.open_tracker().runs) == [solved["run_id"]]


def test_a_dataset_whose_tag_cannot_be_told_is_committed_and_told_by_a_refresh_that_finds_it(
    stages: Any, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that failed would never emit the asset's event, as the next refresh finds nothing changed."""

    class GoesAway(MemoryTracker):
        def find_runs(self, *_: Any, **__: Any) -> FoundRuns:
            raise TrackingError("connection refused")

    solved, writes = scan_and_solve(stages, PARAMS)
    for group in writes:
        stages.write_group(group, PARAMS)
    tracker = stages.open_tracker()
    away = GoesAway()
    away.runs = tracker.runs
    with monkeypatch.context() as patch:
        patch.setattr(stages, "open_tracker", lambda: away)
        committed = stages.commit(solved, PARAMS).dataset
    assert committed["manifest"] in storage.objects
    assert "connection refused" in caplog.text
    run = tracker.runs[solved["run_id"]]
    assert "stowage.manifest" not in run.tags
    again, _ = scan_and_solve(stages, PARAMS)
    assert again["exists"]
    assert stages.commit(again, PARAMS).dataset == committed
    assert run.tags["stowage.manifest"] == committed["manifest"]


@dataclass
class Followers:
    """What the newest event of the asset said, and how many there were: a task emits one only if it succeeds."""

    told: str = ""
    events: int = 0

    def hear(self, committed: Any) -> None:
        if committed.outcome != "nothing changed":
            self.told, self.events = committed.dataset["recipe_id"], self.events + 1


def commits(stages: Any, followers: Followers, tries: int = 1, **options: Any) -> Any:
    """A refresh whose commit has so many tries, of which the last alone ends."""
    solved, writes = scan_and_solve(stages, PARAMS)
    for group in writes:
        stages.write_group(group, PARAMS)
    for _ in range(tries):
        committed = stages.commit(solved, PARAMS, told=followers.told, **options)
    followers.hear(committed)
    return solved, committed


def add_shard(storage: MemoryStorage) -> None:
    storage.objects["/raw/more"] = raw_shard(random_sizes(60, seed=50), seed=50)


def test_a_return_to_an_earlier_dataset_is_told_and_recorded(stages: Any, storage: MemoryStorage) -> None:
    followers, tracker = Followers(), stages.open_tracker()
    _, first = commits(stages, followers)
    add_shard(storage)
    _, second = commits(stages, followers)
    assert (first.outcome, second.outcome, followers.events) == (stages.REFRESHED, stages.REFRESHED, 2)
    storage.delete("/raw/more")
    tags = {"stowage.triggered_by": "ada, by hand", "airflow.dag_run_url": "http://airflow/dags/d/runs/r"}
    solved, back = commits(stages, followers, tags=tags, tries=2)
    assert (solved["exists"], solved["current"]) == (True, second.dataset["recipe_id"])
    assert (back.outcome, followers.events, back.dataset) == (stages.RETURNED, 3, first.dataset)
    assert "**An earlier packed dataset is current again.**" in stages.summary(back)
    assert len(tracker.runs) == 2
    recorded = {name: value for run in tracker.runs.values() for name, value in run.tags.items() if "returned" in name}
    assert list(recorded.values()) == ["ada, by hand, http://airflow/dags/d/runs/r"]
    assert commits(stages, followers)[1].outcome == stages.UNCHANGED
    assert followers.events == 3


@pytest.mark.parametrize("known", [True, False], ids=["with an event before", "with none"])
@pytest.mark.parametrize("back", [True, False], ids=["a return", "a new dataset"])
def test_a_commit_that_is_tried_or_cleared_again_tells_once(
    stages: Any, storage: MemoryStorage, *, known: bool, back: bool
) -> None:
    """All that a try leaves is there for the next one, but for the event."""
    followers = Followers()
    commits(stages, followers)
    add_shard(storage)
    if back:
        commits(stages, followers)
        storage.delete("/raw/more")
    before = followers.events
    followers.told = followers.told if known else ""
    solved, committed = commits(stages, followers, tries=3)
    assert committed.outcome == (stages.RETURNED if back else stages.REFRESHED)
    assert followers.events == before + 1
    cleared = stages.commit(solved, PARAMS, told=followers.told)
    assert (cleared.outcome, cleared.dataset) == (stages.UNCHANGED, committed.dataset)


def test_what_a_commit_that_failed_for_good_did_not_tell_is_told_by_the_next_refresh(
    stages: Any, storage: MemoryStorage
) -> None:
    followers = Followers()
    commits(stages, followers)
    add_shard(storage)
    commits(stages, Followers(followers.told))  # which moved all, and never ended
    solved, committed = commits(stages, followers)
    assert solved["exists"]
    assert (committed.outcome, followers.told) == (stages.REFRESHED, solved["recipe_id"])


def test_a_first_dataset_that_is_made_whole_again_is_told_if_nobody_was(stages: Any, storage: MemoryStorage) -> None:
    solved, _ = commits(stages, Followers())  # which moved all, and never ended
    for uri in [uri for uri in storage.objects if "/manifests/" in uri]:
        storage.delete(uri)
    again, committed = commits(stages, Followers())
    assert (again["exists"], again["current"]) == (False, solved["recipe_id"])
    assert committed.outcome == stages.REFRESHED


def test_where_a_signature_is_required_no_unsigned_dataset_becomes_current_again(
    stages: Any, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    followers = Followers()
    commits(stages, followers)
    add_shard(storage)
    monkeypatch.setattr(stages, "signing_key", lambda: KEY)
    commits(stages, followers, require_signature=True)
    signed = json.loads(storage.read("/out/latest.json"))
    storage.delete("/raw/more")
    with pytest.raises(AirflowFailException, match="signature: not signed by"):
        commits(stages, followers, require_signature=True)
    assert json.loads(storage.read("/out/latest.json")) == signed
    assert commits(stages, followers)[1].outcome == stages.RETURNED


@pytest.mark.parametrize("pointer", ["/out/index/current.json", "/out/latest.json"])
@pytest.mark.parametrize("content", [None, b"{", b"[]", b"{}"])
def test_a_pointer_that_is_lost_or_spoilt_starts_no_training(
    stages: Any, storage: MemoryStorage, pointer: str, content: bytes | None
) -> None:
    commits(stages, Followers())
    storage.delete(pointer)
    if content is not None:
        storage.objects[pointer] = content
    solved, committed = commits(stages, Followers())
    assert (solved["exists"], committed.outcome) == (True, stages.UNCHANGED)


def test_a_refused_alias_is_told_as_one_that_waiting_does_not_mend(
    stages: Any, refreshed: tuple[dict[str, Any], MemoryTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, tracker = refreshed
    with monkeypatch.context() as patch:
        patch.setattr(tracker, "set_current", refuse)
        committed = refresh(stages, params)
    assert committed.outcome == stages.REFRESHED
    for text in (committed.refusal, stages.summary(committed)):
        assert "Give MLflow's user the permission EDIT on the registered models recipes-*" in text
    (run,) = tracker.runs.values()
    assert run.tags["stowage.alias"] == "refused"
    assert refresh(stages, params).refusal == ""
    assert run.tags["stowage.alias"] == "set"


def test_a_task_s_error_is_one_line_and_keeps_its_whole_message(stages: Any, caplog: pytest.LogCaptureFixture) -> None:
    from airflow.sdk.exceptions import AirflowException

    with pytest.raises(AirflowException) as caught, stages.task_errors():
        raise StorageError("s3://b/k: refused access; check the policy") from OSError("the library's own words")
    assert str(caught.value) == "s3://b/k: refused access; check the policy"
    assert "library" not in "".join(traceback.format_exception(caught.value))
    assert [(entry.levelname, entry.message) for entry in caplog.records] == [("ERROR", str(caught.value))]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StorageError("away"), True),
        (TrackerAwayError("away"), True),
        (TrackerRefusedError("refused"), False),
        (UsageError("wrong"), False),
    ],
)
def test_what_waiting_does_not_mend_is_not_tried_again(stages: Any, *, error: StowageError, again: bool) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    with pytest.raises(AirflowException) as caught, stages.task_errors():
        raise error
    assert isinstance(caught.value, AirflowFailException) != again


@pytest.mark.parametrize(
    ("kind", "user", "words"),
    [
        ("manual", "admin", "admin, by hand"),
        ("manual", None, "by hand"),
        ("scheduled", None, "schedule"),
        ("asset_triggered", None, "asset event"),
        ("backfill", "admin", "backfill"),
    ],
)
@pytest.mark.usefixtures("stages")
def test_who_triggered_a_run_is_said_in_words(kind: str, user: str | None, words: str) -> None:
    from airflow.sdk.api.datamodels._generated import DagRunType

    from stowage_airflow.provenance import provenance_tags

    run = SimpleNamespace(run_type=DagRunType(kind), triggering_user_name=user)
    tags = provenance_tags({"dag": SimpleNamespace(dag_id="d"), "run_id": "manual__1+00:00/x", "dag_run": run})
    assert tags["stowage.triggered_by"] == words
    assert tags["airflow.dag_run_url"].endswith("/dags/d/runs/manual__1%2B00%3A00%2Fx")


def test_a_dry_run_is_json_and_stores_nothing(stages: Any, storage: MemoryStorage) -> None:
    before = dict(storage.objects)
    predicted = stages.predict(PARAMS, 2, 1.5)
    assert json.loads(json.dumps(predicted)) == predicted
    assert predicted["cost"] == pytest.approx(predicted["seconds"] / 3600 * 1.5)
    assert storage.objects == before
    recipe_id = scan_and_solve(stages, PARAMS)[0]["recipe_id"]
    recipe = read_recipe(storage, recipe_uri("/out", recipe_id))
    assert {name: predicted[name] for name in FIGURES} == {name: recipe.statistics[name] for name in FIGURES}


@pytest.mark.usefixtures("stages")
def test_tasks_are_named_by_what_they_work_on() -> None:
    from stowage_airflow.groups import partitions_label, shards_label

    shards = [{"name": f"part-{n:05d}", "size": 30_000_000} for n in range(43)]
    assert shards_label(shards) == "part-00000 ... part-00042, 1.3 GB"
    assert shards_label(shards[:1]) == "part-00000, 30.0 MB"
    assert partitions_label({"partitions": ["a"], "shards": shards[:2]}) == "1 partition, 2 raw shards, 60.0 MB"
    long = [{"name": "x" * 300 + "1", "size": 1}, {"name": "x" * 300 + "2", "size": 1}]
    assert len(shards_label(long)) < 250
