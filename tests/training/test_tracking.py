from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from packing.errors import TrackingError
from packing.in_memory import MemoryRun, MemoryTracker
from packing.ports import Metric
from training import sender
from training.spool import Spool
from training.tracking import end_left, tracked

METRICS = [Metric("loss", 1.0 / step, step, step) for step in range(1, 4)]


class AwayRun(MemoryRun):
    def log_metrics(self, metrics: Iterable[Metric]) -> None:  # noqa: ARG002 - the port's signature
        raise TrackingError("connection refused")


def leave(folder: Path, run_id: str) -> Path:
    """What a killed process leaves."""
    spool = Spool(folder / f"{run_id}.jsonl")
    spool.add(METRICS)
    spool.close()
    return spool.path


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "SEND_SECONDS", 0.01)
    monkeypatch.setattr("training.tracking.GRACE_SECONDS", 0.1)


def test_runs_that_earlier_processes_left_get_their_metrics_and_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MemoryTracker()
    sound, resumed, other = (tracker.start_run("e", "n", params={}, tags={}) for _ in range(3))
    away = tracker.runs["away"] = AwayRun("away", "e", "n", {}, {})
    paths = {run_id: leave(tmp_path, run_id) for run_id in (sound.run_id, resumed.run_id, away.run_id, "forgotten")}
    for _ in range(2):
        end_left(tracker, tmp_path, resumed=resumed.run_id)
        assert [run.metrics for run in (sound, resumed, other)] == [METRICS, [], []]
        assert [run.status for run in (sound, resumed, other, away)] == ["KILLED", "RUNNING", "RUNNING", "RUNNING"]
        assert {run_id for run_id, path in paths.items() if path.exists()} == {resumed.run_id, away.run_id}
    assert "no such run" in caplog.text
    assert "connection refused" in caplog.text
    tracker.runs["away"] = found = MemoryRun("away", "e", "n", {}, {})
    end_left(tracker, tmp_path)
    assert (found.metrics, found.status, resumed.metrics) == (METRICS, "KILLED", METRICS)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_metrics_had_all_been_sent_is_ended_too(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    run = tracker.start_run("e", "n", params={}, tags={})
    Spool(tmp_path / f"{run.run_id}.jsonl").close()
    end_left(tracker, tmp_path)
    assert (run.metrics, run.status) == ([], "KILLED")


def test_a_run_that_has_ended_leaves_no_spool(tmp_path: Path) -> None:
    run = MemoryTracker().start_run("e", "n", params={}, tags={})
    with tracked(run, tmp_path) as metrics:
        metrics.add(1, {"loss": 1.0})
    assert (run.status, len(run.metrics)) == ("FINISHED", 1)
    assert not list(tmp_path.iterdir())


def test_nothing_left_is_nothing_to_end(tmp_path: Path) -> None:
    end_left(MemoryTracker(), tmp_path / "none")
