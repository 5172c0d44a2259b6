from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packing.adapters import NullTracker
from packing.errors import TrackingError
from packing.in_memory import MemoryRun
from packing.ports import Metric
from training import sender as module
from training.sender import MetricSender

WAIT = 20.0


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEND_SECONDS", "LONGEST_PAUSE_SECONDS", "SAMPLE_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)


class Server(MemoryRun):
    """Takes metrics unless `problem` is set, and waits for `answering` first; keeps how many came at a time."""

    def __init__(self, run_id: str = "r") -> None:
        super().__init__(run_id, "e", "n", {}, {})
        self.problem: Exception | None = None
        self.answering = threading.Event()
        self.answering.set()
        self.attempts: list[int] = []

    def log_metrics(self, metrics: Iterable[Metric]) -> None:
        batch = list(metrics)
        self.attempts.append(len(batch))
        self.answering.wait(WAIT)
        if self.problem:
            raise self.problem
        super().log_metrics(batch)


@pytest.fixture
def server() -> Iterator[Server]:
    """One that answers in the end, so that no thread is left waiting for it."""
    server = Server()
    yield server
    server.answering.set()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def values(run: MemoryRun) -> list[tuple[str, int, float]]:
    return [(metric.key, metric.step, metric.value) for metric in run.metrics]


def losses(*steps: int) -> list[tuple[str, int, float]]:
    return [("loss", step, float(step)) for step in steps]


def add(sender: MetricSender, *steps: int) -> None:
    for step in steps:
        sender.add(step, {"loss": float(step)})


def test_metrics_arrive_in_order_in_batches_that_a_request_holds(server: Server, tmp_path: Path) -> None:
    server.answering.clear()
    sender = MetricSender(server, tmp_path)
    add(sender, *range(2500))
    sender.flush()
    server.answering.set()
    sender.close()
    assert values(server) == losses(*range(2500))
    assert max(server.attempts) <= 1000
    assert len(server.attempts) <= 5


def test_metrics_arrive_while_the_run_goes_on(server: Server, tmp_path: Path) -> None:
    sender = MetricSender(server, tmp_path)
    for step in range(3):
        add(sender, step)
        wait_until(lambda: values(server) == losses(*range(step + 1)))  # noqa: B023 - called at once
    sender.close()


@pytest.mark.parametrize("problem", [TrackingError("connection refused"), KeyError("run")])
def test_metrics_wait_while_the_server_is_away_which_is_told_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, problem: Exception
) -> None:
    server.problem = problem
    sender = MetricSender(server, tmp_path)
    add(sender, 1)
    wait_until(lambda: len(server.attempts) >= 3)
    add(sender, 2)
    server.problem = None
    wait_until(lambda: bool(values(server)))
    add(sender, 3)
    sender.close()
    assert values(server) == losses(1, 2, 3)
    away, back = [record.getMessage() for record in caplog.records]
    assert f"run r: metrics are not taken, and kept until they are: {type(problem).__name__}" in away
    assert "taken again" in back


def test_what_a_server_that_stays_away_did_not_take_is_sent_by_the_next_process(server: Server, tmp_path: Path) -> None:
    sender = MetricSender(server, tmp_path)
    add(sender, 1)
    wait_until(lambda: bool(values(server)))
    server.problem = TrackingError("connection refused")
    add(sender, 2, 3)
    path = tmp_path / "r.jsonl"
    with pytest.raises(TrackingError, match=rf"run r: .*connection refused.*{path}: run the same command again"):
        sender.close(0.05)
    server.problem = None
    successor = MetricSender(server, tmp_path)
    add(successor, 4)
    successor.close()
    assert values(server) == losses(1, 2, 3, 4)
    assert path.stat().st_size == 0


def test_a_server_that_does_not_answer_holds_up_neither_training_nor_its_end(server: Server, tmp_path: Path) -> None:
    server.answering.clear()
    sender = MetricSender(server, tmp_path)
    add(sender, 1)
    wait_until(lambda: bool(server.attempts))
    add(sender, 2)
    sender.flush()
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2
    with pytest.raises(TrackingError, match="slow"):
        sender.close(0.05)
    other = Server()
    MetricSender(other, tmp_path).close()
    assert values(other) == losses(1, 2)


def test_runs_are_not_mixed(server: Server, tmp_path: Path) -> None:
    server.problem = TrackingError("away")
    sender = MetricSender(server, tmp_path)
    add(sender, 1)
    with pytest.raises(TrackingError):
        sender.close(0.05)
    other = Server("other")
    sender = MetricSender(other, tmp_path)
    add(sender, 2)
    sender.close()
    assert values(other) == losses(2)


def test_nothing_is_kept_of_a_run_that_is_not_recorded(tmp_path: Path) -> None:
    run = NullTracker().start_run("e", "n", params={}, tags={})
    sender = MetricSender(run, tmp_path / "spools")
    add(sender, 1)
    sender.flush()
    sender.close()
    assert list(tmp_path.iterdir()) == []


def test_samples_come_beside_the_steps(server: Server, tmp_path: Path) -> None:
    samples = iter(range(10**6))
    sender = MetricSender(server, tmp_path, lambda: {"system/sample": float(next(samples))})
    wait_until(lambda: bool(values(server)))
    add(sender, 7)
    wait_until(lambda: any(step == 7 and key == "system/sample" for key, step, _ in values(server)))
    sender.close()
    sampled = [value for key, _, value in values(server) if key == "system/sample"]
    assert sampled == list(map(float, range(len(sampled))))
    assert losses(7)[0] in values(server)


def test_a_thread_that_dies_is_heard_of(server: Server, tmp_path: Path) -> None:
    def fail() -> dict[str, float]:
        raise ZeroDivisionError("of the sample")

    sender = MetricSender(server, tmp_path, fail)
    for call in (lambda: wait_until(lambda: add(sender, 1) is not None), sender.flush, sender.close):
        with pytest.raises(TrackingError, match=r"run r: .*of the sample") as error:
            call()
        assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_closed_sender_takes_nothing_more(server: Server, tmp_path: Path) -> None:
    sender = MetricSender(server, tmp_path)
    sender.close()
    sender.close()
    for call in (lambda: add(sender, 1), sender.flush):
        with pytest.raises(TrackingError, match="closed"):
            call()


TRAINING = """
import json, random, sys, time
from pathlib import Path
from packing.errors import TrackingError
from packing.ports import Metric
from training import sender as module
from training.sender import MetricSender

folder, attempt, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
module.SEND_SECONDS, module.LONGEST_PAUSE_SECONDS = 0.002, 0.05
luck = random.Random(attempt)

class Server:
    run_id = "r"

    def log_metrics(self, metrics):
        if luck.random() < 0.6:
            raise TrackingError("away")
        with (folder / "server").open("a") as file:
            for metric in metrics:
                file.write(json.dumps([metric.key, metric.step, metric.value, metric.timestamp]) + "\\n")
                file.flush()
        if luck.random() < 0.3:
            raise TrackingError("it took them, and the answer was lost")

checkpoint = folder / "checkpoint"
step = int(checkpoint.read_text()) if checkpoint.exists() else 0
sender = MetricSender(Server(), folder)
print("started", flush=True)
while step < steps:
    step += 1
    sender.add(step, {"a": attempt, "b": -attempt})
    if step % 3 == 0:
        sender.flush()
        (folder / "new").write_text(str(step))
        (folder / "new").replace(checkpoint)
    time.sleep(luck.random() * 0.004)
sender.close()
"""


def run_training(folder: Path, attempt: int, steps: int) -> Any:
    command = [sys.executable, "-c", TRAINING, str(folder), str(attempt), str(steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read_checkpoint(folder: Path) -> int:
    return int((folder / "checkpoint").read_text()) if (folder / "checkpoint").exists() else 0


def test_a_run_killed_again_and_again_loses_no_metric_and_doubles_none(tmp_path: Path) -> None:
    resumed_from, left = [0], 0
    for attempt in range(4):
        with run_training(tmp_path, attempt, 10**6) as process:
            assert process.stdout.readline() == "started\n"
            wait_until(lambda: read_checkpoint(tmp_path) > resumed_from[-1] + 5)
            time.sleep(0.017 * attempt)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        left += (tmp_path / "r.jsonl").stat().st_size
        resumed_from.append(read_checkpoint(tmp_path))
    assert left
    last = resumed_from[-1] + 10
    with run_training(tmp_path, 4, last) as process:
        assert process.wait(WAIT) == 0
    lines = (tmp_path / "server").read_text().splitlines()
    arrived = {tuple(json.loads(line)) for line in lines}
    assert len(lines) > len(arrived)
    taken = Counter((key, step, abs(value)) for key, step, value, _ in arrived)
    assert set(taken.values()) == {1}
    for attempt, (first, end) in enumerate(zip(resumed_from, [*resumed_from[1:], last], strict=True)):
        assert {(key, step, attempt) for key in "ab" for step in range(first + 1, end + 1)} <= taken.keys()
