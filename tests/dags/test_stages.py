"""The stages as the DAG calls them, over a store and a tracker in memory."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packing.adapters import open_storage
from packing.errors import StorageError, TrackingError
from packing.in_memory import MemoryRun, MemoryStorage, MemoryTracker
from packing.parallel import serial
from packing.ports import Buffer, FoundRuns, ObjectInfo
from packing.predict import FIGURES
from packing.recipe import read_recipe, recipe_uri
from packing.signing import check_signature
from packing.verify import require, verify_dataset
from tests.builders import random_sizes, raw_shard, store_with
from tests.packing.test_signing import ANOTHER, KEY

pytestmark = pytest.mark.slow

PARAMS = {
    "source": "/raw",
    "destination": "/out",
    "max_sequence_length": 64,
    "max_sequences_per_pack": 3,
    "max_predictions_per_sequence": 10,
    "solver": "optimal",
    "seed": 0,
    "partition_bytes": 12_000,
    "time_limit": None,
    "max_rejected": 0,
}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "plugins"))
    from stowage_airflow import stages

    yield stages
    for name in [name for name in sys.modules if name.startswith("stowage_airflow")]:
        del sys.modules[name]


@pytest.fixture
def storage(stages: Any, monkeypatch: pytest.MonkeyPatch) -> MemoryStorage:
    storage = store_with({f"part-{i}": raw_shard(random_sizes(30, seed=i), seed=i) for i in range(6)})
    tracker = MemoryTracker()
    monkeypatch.setattr(stages, "open_storage", lambda: storage)
    monkeypatch.setattr(stages, "open_tracker", lambda: tracker)
    monkeypatch.setattr(stages, "signing_key", lambda: None)
    return storage


def scan_and_solve(stages: Any, params: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    stages.check_request(params)
    groups = stages.list_shards(params, 2)
    assert len(groups) == 2
    for group in groups:
        stages.scan_group(group, params)
    solved: tuple[dict[str, Any], list[dict[str, Any]]] = stages.solve(groups, params, {}, 2)
    return solved


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
    committed = stages.commit(solved, moved)
    require(verify_dataset(storage, serial(storage), committed["manifest"], "/moved"))

    again, writes = scan_and_solve(stages, moved)
    assert (again["unchanged"], writes) == (True, [])


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


@pytest.fixture
def refreshed(stages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], MemoryTracker]:
    """The params of a refresh in folders, which an audit's own process can read too, and its tracker."""
    tracker = MemoryTracker()
    monkeypatch.setattr(stages, "open_storage", open_storage)
    monkeypatch.setattr(stages, "open_tracker", lambda: tracker)
    monkeypatch.setattr(stages, "signing_key", lambda: None)
    (tmp_path / "raw").mkdir()
    for i in range(6):
        (tmp_path / "raw" / f"part-{i}").write_bytes(raw_shard(random_sizes(30, seed=i), seed=i))
    return {**PARAMS, "source": str(tmp_path / "raw"), "destination": str(tmp_path / "out")}, tracker


def refresh(stages: Any, params: dict[str, Any]) -> dict[str, str]:
    solved, writes = scan_and_solve(stages, params)
    for group in writes:
        stages.write_group(group, params)
    committed: dict[str, str] = stages.commit(solved, params)
    return committed


def test_an_audit_is_added_to_the_recipes_run(stages: Any, refreshed: tuple[dict[str, Any], MemoryTracker]) -> None:
    params, tracker = refreshed
    refresh(stages, params)
    committed = refresh(stages, params)  # which changes nothing, and has no run of its own
    (run,) = tracker.runs.values()
    assert "stowage.audit" not in run.tags
    assert stages.audit(committed, params) == "all 12 lines hold"
    assert run.tags["stowage.audit"] == "passed"
    report = json.loads(run.artifacts["audit/report.json"])
    assert (report["outcome"], report["manifest"], report["source"]) == (
        "passed", committed["manifest"], params["source"],
    )  # fmt: skip
    assert len([check for check in report["checks"] if check["passed"]]) == 12
    page = run.artifacts["audit/report.md"].decode()
    assert page.startswith("# Audit passed")
    assert page.count("| ok |") == 12


def test_an_audit_that_fails_is_recorded_and_fails_the_task(
    stages: Any, refreshed: tuple[dict[str, Any], MemoryTracker]
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    params, tracker = refreshed
    committed = refresh(stages, params)
    shard = next(Path(params["destination"], "shards").rglob("part-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(AirflowFailException, match=str(shard)):
        stages.audit(committed, params)
    (run,) = tracker.runs.values()
    assert run.tags["stowage.audit"] == "failed"
    assert b"| **FAILED** | packed shards |" in run.artifacts["audit/report.md"]
    tracker.runs.clear()
    with pytest.raises(AirflowFailException, match=str(shard)):
        stages.audit(committed, params)


def test_an_audit_that_cannot_be_done_is_no_audit(stages: Any, refreshed: tuple[dict[str, Any], MemoryTracker]) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    params, tracker = refreshed
    committed = refresh(stages, params)
    with pytest.raises(AirflowFailException, match=r"audit ended with status 3: error: .*expected raw TFRecord shards"):
        stages.audit(committed, {**params, "source": params["source"] + "-none"})
    with pytest.raises(AirflowException, match=r"audit ended with status 5: error: .*no such"):
        stages.audit({**committed, "manifest": committed["manifest"] + "-none"}, params)
    (run,) = tracker.runs.values()
    assert "stowage.audit" not in run.tags


def test_with_a_key_to_sign_with_a_dataset_is_signed_and_its_signature_audited(
    stages: Any, refreshed: tuple[dict[str, Any], MemoryTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    params, tracker = refreshed
    monkeypatch.setattr(stages, "signing_key", lambda: KEY)
    committed = refresh(stages, params)
    (run,) = tracker.runs.values()
    assert run.tags["stowage.signed_by"] == KEY.public.fingerprint
    assert stages.audit(committed, params) == "all 13 lines hold"
    monkeypatch.setattr(stages, "signing_key", lambda: ANOTHER)
    with pytest.raises(AirflowFailException, match="signature: not signed by"):
        stages.audit(committed, params)
    assert run.tags["stowage.audit"] == "failed"


def test_where_a_signature_is_required_nothing_is_committed_or_audited_without_a_key(
    stages: Any, refreshed: tuple[dict[str, Any], MemoryTracker], monkeypatch: pytest.MonkeyPatch
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
    committed = stages.commit(solved, params, require_signature=True)
    assert check_signature(open_storage(), committed["manifest"], KEY.public).passed
    monkeypatch.setattr(stages, "signing_key", lambda: None)
    again, _ = scan_and_solve(stages, params)
    assert stages.commit(again, params, require_signature=True) == committed, "nothing is left to sign"
    monkeypatch.setattr(stages, "_audit_process", None)
    with refused(match="^connection stowage_signing: "):
        stages.audit(committed, params, require_signature=True)
    assert "stowage.audit" not in run.tags


@contextmanager
def refused(match: str) -> Iterator[None]:
    """A task fails so, and is to be tried again."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    with pytest.raises(AirflowException, match=match) as caught:
        yield
    assert not isinstance(caught.value, AirflowFailException)


def contents(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


class AwayFor(MemoryTracker):
    """A server that does not answer the next so many requests for runs."""

    def __init__(self, tracker: MemoryTracker, requests: int) -> None:
        super().__init__()
        self.runs, self.requests = tracker.runs, requests

    def find_runs(self, *args: Any, **options: Any) -> FoundRuns:
        self.requests -= 1
        if self.requests >= 0:
            raise TrackingError("connection refused")
        return super().find_runs(*args, **options)


@pytest.fixture
def audited(
    stages: Any, refreshed: tuple[dict[str, Any], MemoryTracker], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[MemoryRun, list[int]]]:
    """Audits a dataset with one line that holds or not, while MLflow is away for so many requests.

    Gives the recipe's run, and one number for each audit that was made.
    """
    from packing.verify import Check

    params, tracker = refreshed
    committed = refresh(stages, params)
    monkeypatch.setattr(stages, "RECORD_PAUSES", (0, 0))

    def audit(*, passes: bool, away: int, error: str = "") -> tuple[MemoryRun, list[int]]:
        made: list[int] = []

        def process(*_: str) -> list[Check]:
            made.append(len(made))
            return [Check("bound", passed=passes, detail="as it was found")]

        monkeypatch.setattr(stages, "_audit_process", process)
        server = AwayFor(tracker, away)
        monkeypatch.setattr(stages, "open_tracker", lambda: server)
        with refused(match=error) if error else nullcontext():
            stages.audit(committed, params)
        (run,) = tracker.runs.values()
        return run, made

    return audit


@pytest.mark.parametrize("away", [0, 1, 2])
def test_what_an_audit_found_is_told_once_mlflow_is_back(
    audited: Callable[..., tuple[MemoryRun, list[int]]], away: int
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    run, made = audited(passes=True, away=away)
    assert (run.tags["stowage.audit"], made) == ("passed", [0])
    with pytest.raises(AirflowFailException, match="bound: as it was found"):
        audited(passes=False, away=away)
    assert run.tags["stowage.audit"] == "failed"


def test_an_audit_that_passed_and_is_not_recorded_says_both(
    audited: Callable[..., tuple[MemoryRun, list[int]]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    message = "the audit passed, all 1 lines hold, as this log says .* could not be added .*: connection refused; once"
    run, made = audited(passes=True, away=100, error=message)
    assert ("stowage.audit" in run.tags, made) == (False, [0])
    assert "all 1 lines hold" in caplog.text


def test_a_failed_audit_fails_as_one_also_if_it_cannot_be_recorded(
    audited: Callable[..., tuple[MemoryRun, list[int]]], caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    caplog.set_level(logging.INFO)
    with pytest.raises(AirflowFailException, match=r"^bound: as it was found$"):
        audited(passes=False, away=100)
    assert "1 of 1 lines fail: bound" in caplog.text
    assert "the audit's report is not in MLflow: connection refused" in caplog.text


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
        committed = stages.commit(solved, PARAMS)
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
        committed = stages.commit(solved, PARAMS)
    assert committed["manifest"] in storage.objects
    assert "connection refused" in caplog.text
    run = tracker.runs[solved["run_id"]]
    assert "stowage.manifest" not in run.tags
    again, _ = scan_and_solve(stages, PARAMS)
    assert again["unchanged"]
    assert stages.commit(again, PARAMS) == committed
    assert run.tags["stowage.manifest"] == committed["manifest"]


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
