"""Two processes that share a run give what one gives."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packing.adapters.local import LocalStorage
from tests.training.packs import raw_sequences, shard_bytes
from tests.training.processes import Process, Processes, read_losses, write_training_data

pytestmark = pytest.mark.slow

SECONDS = 500
STEPS = 30
SETTINGS = ["--steps", str(STEPS), "--sequences-per-step", "8", "--learning-rate", "0.01", "--checkpoint-every", "10"]


def cluster(workers: int) -> list[str]:
    """TF_CONFIG of each of `workers` on this machine."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    tasks = [{"type": "worker", "index": index} for index in range(workers)]
    return [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]


def test_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("0.npz", "1.npz", "single.npz")]
    with Processes(SECONDS) as processes:
        started = [
            processes.start("gradients", "multi-worker", str(file), tf_config=tf_config)
            for file, tf_config in zip(files, cluster(2), strict=False)
        ]
        started.append(processes.start("gradients", "cpu", str(files[-1])))
        assert [process.wait() for process in started] == [0, 0, 0]
    first, second, expected = map(np.load, files)
    np.testing.assert_array_equal(first["counts"], expected["counts"])
    assert all(np.array_equal(first[name], second[name]) for name in expected)
    assert difference(first, expected) <= 1e-5


def difference(some: Mapping[str, Any], others: Mapping[str, Any]) -> float:
    """The norm of all differences over the norm of all of `others`."""
    one, other = (np.concatenate([x[name].ravel() for name in others if name != "counts"]) for x in (some, others))
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def test_losses_are_those_of_one_process_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    command = ["printing", *write_training_data(tmp_path), *SETTINGS]

    def train_together(folder: str) -> list[Process]:
        arguments = [*command, "--strategy", "multi-worker", "--model-dir", str(tmp_path / folder)]
        return [processes.start(*arguments, tf_config=tf_config) for tf_config in cluster(2)]

    with Processes(SECONDS) as processes:
        expected = read_losses(processes.start(*command, "--model-dir", str(tmp_path / "alone")))
        assert list(expected) == list(range(1, STEPS + 1))

        chief, other = train_together("stopped")
        before = read_losses(chief, until=5)
        other.send_signal(signal.SIGTERM)
        before |= read_losses(chief)
        assert [process.wait() for process in (chief, other)] == [42, 42]
        assert max(before) < STEPS
        chief, other = train_together("stopped")
        after = read_losses(chief)
        assert [process.wait() for process in (chief, other)] == [0, 0]
        assert read_losses(other) == {}
    assert list(before) + list(after) == list(expected)
    assert {**before, **after} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_ends_the_others_with_a_clear_error(tmp_path: Path, lost: int) -> None:
    command = ["printing", *write_training_data(tmp_path), "--steps", "100000", *SETTINGS[2:]]
    arguments = [*command, "--strategy", "multi-worker", "--model-dir", str(tmp_path / "model")]
    with Processes(SECONDS) as processes:
        started = [processes.start(*arguments, tf_config=tf_config) for tf_config in cluster(2)]
        read_losses(started[0], until=12)
        started.pop(lost).kill()
        (other,) = started
        assert other.stdout is not None
        output = other.stdout.read()
        assert other.wait() == 42, output
    assert "another worker is gone" in output
    assert "Traceback" not in output


def test_workers_with_wrong_data_name_it(tmp_path: Path) -> None:
    """The wrong example is in the share of one of them, which ends with an error that no retry mends."""
    arguments = write_training_data(tmp_path)
    raw = tmp_path / "wrong"
    wrong = raw_sequences([5] * 2)
    wrong[1]["segment_ids"][0] = 9
    LocalStorage().write(str(raw / "part-0"), shard_bytes(wrong))
    command = ["printing", *arguments, "--data", str(raw), "--mode", "padded", "--sequences-per-step", "2"]
    with Processes(SECONDS) as processes:
        started = [
            processes.start(
                *command, "--strategy", "multi-worker", "--model-dir", str(tmp_path / "model"), tf_config=task
            )
            for task in cluster(2)
        ]
        outputs = [process.stdout.read() for process in started if process.stdout]
        statuses = [process.wait() for process in started]
    assert sorted(statuses) == [3, 42], outputs
    assert f"error: {raw}: expected segment_ids of 0 and 1, found 9 at entry 0; " in outputs[statuses.index(3)]
    assert "another worker is gone" in outputs[statuses.index(42)]
