"""Two real workers of a tiny model through the local launcher: lost, resumed, and done."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.training.processes import REPOSITORY, write_training_data

pytestmark = pytest.mark.exhaustive

SECONDS = 240
STEPS = 15

Launcher = subprocess.Popen[str]


@contextmanager
def launched(arguments: list[str]) -> Iterator[Launcher]:
    """Two workers; whatever happens, none of them is left."""
    options = ["--workers", "2", "--grace-seconds", "5"]  # which a peer that waits for a lost one would wait in vain
    command = [sys.executable, "-m", "training.launchers.local", *options, "--", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=pipe, stderr=pipe, text=True) as launcher:
        watchdog = threading.Timer(SECONDS, launcher.terminate)
        watchdog.start()
        mine = psutil.Process(launcher.pid)
        try:
            yield launcher
            started = mine.children() if launcher.poll() is None else []
            assert not started
        finally:
            watchdog.cancel()
            for process in (*(mine.children() if launcher.poll() is None else []), launcher):
                process.kill()


def worker(launcher: Launcher, index: int) -> psutil.Process:
    """The process of a worker, as soon as it is one."""
    while launcher.poll() is None:
        for process in psutil.Process(launcher.pid).children():
            text = process.environ().get("TF_CONFIG", "")
            if text and json.loads(text)["task"]["index"] == index:
                return process
        time.sleep(0.01)
    raise AssertionError(launcher.communicate())


def steps(lines: str) -> list[int]:
    return [int(step) for step in re.findall(r"^step (\d+)  sequences", lines, re.MULTILINE)]


def test_a_lost_worker_ends_the_run_and_the_next_one_resumes(tmp_path: Path) -> None:
    data = write_training_data(tmp_path)
    arguments = ["train", "--json", "--strategy", "multi-worker", "--model-dir", str(tmp_path / "model")]
    for flag in ("--data", "--model"):
        arguments += [flag, data[data.index(flag) + 1]]
    arguments += ["--steps", str(STEPS), "--sequences-per-step", "8", "--checkpoint-every", "5", "--log-every", "1"]

    with launched(arguments) as launcher:
        worker(launcher, 1).kill()
        output, messages = launcher.communicate()
    assert launcher.returncode == 137, messages
    assert output == ""
    assert messages.splitlines()[-1].startswith("error: worker 1 of 2 was killed by SIGKILL")
    assert steps(messages) == []

    with launched(arguments) as launcher:
        assert launcher.stderr is not None
        before = ""
        while "step 7 " not in before and (line := launcher.stderr.readline()):
            before += line
        worker(launcher, 1).kill()
        _, messages = launcher.communicate()
    assert launcher.returncode == 137, messages
    assert messages.splitlines()[-1].startswith("error: worker 1 of 2 was killed by SIGKILL")
    assert "Traceback" not in messages

    with launched(arguments) as launcher:
        output, after = launcher.communicate()
    assert launcher.returncode == 0, after
    assert json.loads(output)["steps"] == STEPS
    resumed = steps(after)
    assert 5 < resumed[0] <= steps(before + messages)[-1] + 1
    assert resumed == list(range(resumed[0], STEPS + 1))
