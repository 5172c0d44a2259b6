"""The audit of a refresh, over a store of files and a tracker in memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from packing.errors import TrackerRefusedError, TrackingError
from packing.in_memory import MemoryRun, MemoryTracker
from packing.ports import FoundRuns
from tests.builders import random_sizes, raw_shard
from tests.dags.refreshing import refresh, refused
from tests.packing.test_signing import ANOTHER, KEY

pytestmark = pytest.mark.slow

ALL = [f"part-{number}" for number in range(6)]


def listed(names: list[str]) -> list[list[dict[str, Any]]]:
    """Raw shards in groups, as the refresh lists them."""
    return [[{"name": name} for name in part] for part in (names[:3], names[3:])]


def test_an_audit_is_added_to_the_recipes_run(
    stages: Any, audits: Any, refreshed: tuple[dict[str, Any], MemoryTracker]
) -> None:
    params, tracker = refreshed
    refresh(stages, params)
    committed = refresh(stages, params).dataset  # which changes nothing, and has no run of its own
    (run,) = tracker.runs.values()
    assert "stowage.audit" not in run.tags
    assert audits.audit(committed, listed(ALL), params) == "all 12 lines hold"
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
    stages: Any, audits: Any, refreshed: tuple[dict[str, Any], MemoryTracker]
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    params, tracker = refreshed
    committed = refresh(stages, params).dataset
    shard = next(Path(params["destination"], "shards").rglob("part-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(AirflowFailException, match=str(shard)):
        audits.audit(committed, listed(ALL), params)
    (run,) = tracker.runs.values()
    assert run.tags["stowage.audit"] == "failed"
    assert b"| **FAILED** | packed shards |" in run.artifacts["audit/report.md"]
    tracker.runs.clear()
    with pytest.raises(AirflowFailException, match=str(shard)):
        audits.audit(committed, listed(ALL), params)


def test_raw_data_that_came_later_leaves_a_sound_dataset_sound_and_earlier_reports_stay(
    stages: Any, audits: Any, refreshed: tuple[dict[str, Any], MemoryTracker]
) -> None:
    params, tracker = refreshed
    committed = refresh(stages, params).dataset
    audits.audit(committed, listed(ALL), params)
    Path(params["source"], "part-7").write_bytes(raw_shard(random_sizes(9, seed=7), seed=7))
    assert audits.audit(committed, listed(ALL), params) == "all 12 lines hold"
    (run,) = tracker.runs.values()
    assert run.tags["stowage.audit"] == "passed"
    assert (
        b"1 more came after the refresh had listed them and are not in it: part-7" in run.artifacts["audit/report.md"]
    )
    reports = [path for path in run.artifacts if path.startswith("audit/2") and path.endswith("/report.md")]
    assert len(reports) == 2
    assert b"part-7" not in run.artifacts[min(reports)]


def test_an_audit_that_cannot_be_done_is_no_audit(
    stages: Any, audits: Any, refreshed: tuple[dict[str, Any], MemoryTracker]
) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    params, tracker = refreshed
    committed = refresh(stages, params).dataset
    with pytest.raises(AirflowFailException, match=r"audit ended with status 3: error: .*expected raw TFRecord shards"):
        audits.audit(committed, listed(ALL), {**params, "source": params["source"] + "-none"})
    with pytest.raises(AirflowException, match=r"audit ended with status 5: error: .*no such"):
        audits.audit({**committed, "manifest": committed["manifest"] + "-none"}, listed(ALL), params)
    (run,) = tracker.runs.values()
    assert "stowage.audit" not in run.tags


def test_with_a_key_to_sign_with_a_dataset_is_signed_and_its_signature_audited(
    stages: Any, audits: Any, refreshed: tuple[dict[str, Any], MemoryTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    params, tracker = refreshed
    monkeypatch.setattr(stages, "signing_key", lambda: KEY)
    committed = refresh(stages, params).dataset
    (run,) = tracker.runs.values()
    assert run.tags["stowage.signed_by"] == KEY.public.fingerprint
    assert audits.audit(committed, listed(ALL), params) == "all 13 lines hold"
    monkeypatch.setattr(stages, "signing_key", lambda: ANOTHER)
    with pytest.raises(AirflowFailException, match="signature: not signed by"):
        audits.audit(committed, listed(ALL), params)
    assert run.tags["stowage.audit"] == "failed"


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
    stages: Any, audits: Any, refreshed: tuple[dict[str, Any], MemoryTracker], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[MemoryRun, list[int]]]:
    """Audits a dataset with one line that holds or not, while MLflow is away for so many requests.

    Gives the recipe's run, and one number for each audit that was made.
    """
    from packing.verify import Check

    params, tracker = refreshed
    committed = refresh(stages, params).dataset
    monkeypatch.setattr(audits, "RECORD_PAUSES", (0, 0))

    def audit(*, passes: bool, away: int, error: str = "") -> tuple[MemoryRun, list[int]]:
        made: list[int] = []

        def process(*_: str) -> list[Check]:
            made.append(len(made))
            return [Check("bound", passed=passes, detail="as it was found")]

        monkeypatch.setattr(audits, "_audit_process", process)
        server = AwayFor(tracker, away)
        monkeypatch.setattr(audits, "open_tracker", lambda: server)
        with refused(match=error) if error else nullcontext():
            audits.audit(committed, listed(ALL), params)
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


def test_a_refused_record_of_an_audit_is_not_tried_again(
    audits: Any, refreshed: tuple[dict[str, Any], MemoryTracker], stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from packing.verify import Check

    params, tracker = refreshed
    committed = refresh(stages, params).dataset
    asked: list[str] = []

    def refuse(*_: Any, **__: Any) -> Any:
        asked.append("runs")
        raise TrackerRefusedError("http://mlflow: forbidden")

    monkeypatch.setattr(tracker, "find_runs", refuse)
    monkeypatch.setattr(audits, "_audit_process", lambda *_: [Check("bound", passed=True, detail="as it was found")])
    with pytest.raises(AirflowFailException, match=r"the audit passed.*give its user the permission"):
        audits.audit(committed, [], params)
    assert asked == ["runs"]


def test_a_failed_audit_fails_as_one_also_if_it_cannot_be_recorded(
    audited: Callable[..., tuple[MemoryRun, list[int]]], caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    caplog.set_level(logging.INFO)
    with pytest.raises(AirflowFailException, match=r"^bound: as it was found$"):
        audited(passes=False, away=100)
    assert "1 of 1 lines fail: bound" in caplog.text
    assert "the audit's report is not in MLflow: connection refused" in caplog.text
