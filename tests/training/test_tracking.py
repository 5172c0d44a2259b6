from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from packing.errors import TrackingError
from packing.ports import MemoryRun, MemoryTracker, Metric
from training import sender
from training.spool import Spool
from training.tracking import send_left

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


def test_what_earlier_processes_left_is_sent_to_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender, "SEND_SECONDS", 0.01)
    monkeypatch.setattr("training.tracking.GRACE_SECONDS", 0.1)
    tracker = MemoryTracker()
    sound, other = (tracker.start_run("e", "n", params={}, tags={}) for _ in range(2))
    away = tracker.runs["away"] = AwayRun("away", "e", "n", {}, {})
    paths = {run_id: leave(tmp_path, run_id) for run_id in (sound.run_id, away.run_id, "forgotten")}
    for _ in range(2):
        send_left(tracker, tmp_path)
        assert (sound.metrics, other.metrics) == (METRICS, [])
        assert not paths["forgotten"].exists()
        assert paths[away.run_id].stat().st_size
    assert "no such run" in caplog.text
    assert "connection refused" in caplog.text
    tracker.runs["away"] = found = MemoryRun("away", "e", "n", {}, {})
    send_left(tracker, tmp_path)
    assert found.metrics == METRICS


def test_nothing_left_is_nothing_to_send(tmp_path: Path) -> None:
    send_left(MemoryTracker(), tmp_path / "none")
