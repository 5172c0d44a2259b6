"""The demo's own command: its services start, work and stop, and Ctrl-C leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from demo.__main__ import main, only_one

MARK = "STOWAGES_TEST_MARK"
STOP_SECONDS = 120


class Demo:
    """A running `python -m demo`; all its processes are known by a variable of their environment."""

    def __init__(self, command: str, folder: Path) -> None:
        self._mark = f"{MARK}={uuid.uuid4()}"
        name, _, value = self._mark.partition("=")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "demo", command, "--folder", str(folder)],
            env={**os.environ, name: value, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = ""

    def read_until(self, text: str) -> str:
        """Read lines until one holds `text`; returns that line."""
        for line in self._process.stdout or ():
            self.output += line
            if text in line:
                return line
        pytest.fail(f"{text!r} never appeared:\n{self.output}")

    def press_ctrl_c(self) -> int:
        """What a terminal does: SIGINT to the foreground process group. Returns the exit status."""
        os.killpg(self._process.pid, signal.SIGINT)
        rest, _ = self._process.communicate(timeout=STOP_SECONDS)
        self.output += rest
        return self._process.returncode

    def processes(self) -> list[int]:
        """All processes that this demo started and that still run, itself included."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._mark in environment_of(entry)]


def environment_of(entry: Path) -> list[str]:
    """The environment of a process, empty if it has ended meanwhile."""
    try:
        return (entry / "environ").read_text(errors="replace").split("\0")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return []


@contextmanager
def running(command: str, folder: Path) -> Iterator[Demo]:
    demo = Demo(command, folder)
    try:
        yield demo
    finally:
        for pid in demo.processes():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that the raw data is made once."""
    return tmp_path_factory.mktemp("demo")


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "object store: started",
        "MLflow: started",
        pytest.param("refresh_packed_dataset: scan", marks=pytest.mark.exhaustive),
    ],
)
def test_ctrl_c_leaves_no_process_behind(folder: Path, moment: str) -> None:
    with running("run", folder) as demo:
        demo.read_until(moment)
        assert len(demo.processes()) > 1
        assert demo.press_ctrl_c() == 130
        assert demo.processes() == []
        assert demo.output.endswith("interrupted; nothing is left running\n")


@pytest.mark.exhaustive
def test_up_serves_until_ctrl_c(folder: Path) -> None:
    with running("up", folder) as demo:
        url, password = re.search(r"(http://\S+)  user admin, password (\S+)", demo.read_until("password")).groups()  # type: ignore[union-attr]
        demo.read_until("Ctrl-C stops everything")
        answer = requests.post(f"{url}/auth/token", json={"username": "admin", "password": password}, timeout=30)
        assert answer.status_code == 201
        refused = requests.post(f"{url}/auth/token", json={"username": "admin", "password": "wrong"}, timeout=30)
        assert refused.status_code == 401
        assert demo.press_ctrl_c() == 130
        assert demo.processes() == []


def test_two_demos_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_one(tmp_path):
        assert main(["run", "--folder", str(tmp_path)]) == 1
    assert "another `make demo`" in capsys.readouterr().err
