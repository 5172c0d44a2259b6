"""Several workers as processes, here small programs that only listen, wait and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.devices import Worker, this_worker
from training.launchers.local import WorkerError, cluster, failure, main, run_workers

WORKER = """
import json, os, signal, socket, sys, time
from pathlib import Path
config = json.loads(os.environ["TF_CONFIG"])
index, folder, listener = config["task"]["index"], Path(sys.argv[1]), socket.socket()
def listen():
    listener.bind(("127.0.0.1", int(config["cluster"]["worker"][index].split(":")[1])))
    listener.listen()
def wait(name):
    while not (folder / name).exists():
        time.sleep(0.01)
(folder / f"pid-{index}").write_text(str(os.getpid()))
exec(sys.argv[2 + index])
"""
WAIT = "listen(); wait('never')"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); Path(folder, 'stubborn').touch(); " + WAIT
SAVE = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42)); Path(folder, f'up-{index}').touch(); " + WAIT
LAUNCHER = """
import sys
from training.launchers.local import run_workers, WorkerError
try:
    run_workers([sys.executable, "-c", *sys.argv[1:]], 2, start_timeout=30)
except WorkerError as exc:
    print(exc)
    sys.exit(exc.exit_status)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """For what workers tell; all that have started must have ended."""
    yield tmp_path
    found = [int(file.read_text()) for file in tmp_path.glob("pid-*")]
    assert found
    left = [pid for pid in found if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def is_running(pid: int) -> bool:
    """Whether it is more than an entry for a parent that has not asked."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def run(folder: Path, *programs: str, start_timeout: float = 30, grace_seconds: float = 30) -> None:
    command = [sys.executable, "-c", WORKER, str(folder), *programs]
    run_workers(command, len(programs), start_timeout=start_timeout, grace_seconds=grace_seconds)


def test_the_chief_speaks_for_all(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    speak = "listen(); print('said', index); print('told', index, file=sys.stderr)"
    run(folder, speak, speak, speak)
    output, messages = capfd.readouterr()
    assert output == "said 0\n"
    assert sorted(messages.splitlines()) == [
        "told 0", "worker 1: said 1", "worker 1: told 1", "worker 2: said 2", "worker 2: told 2",
    ]  # fmt: skip


@given(st.integers(1, 9))
def test_each_worker_knows_its_place(workers: int) -> None:
    configs = cluster(workers)
    addresses = json.loads(configs[0])["cluster"]["worker"]
    assert len(set(addresses)) == workers
    for index, text in enumerate(configs):
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TF_CONFIG", text)
            assert this_worker("multi-worker") == Worker(index, workers)
        assert json.loads(text)["cluster"]["worker"] == addresses


@pytest.mark.parametrize(
    ("program", "status", "how"),
    [
        ("os.kill(os.getpid(), 9)", 137, "was killed by SIGKILL; the others are ended; run again"),
        ("listen(); sys.exit(42)", 42, "ended with status 42; the others are ended; run again"),
        ("listen(); sys.exit(3)", 3, "ended with status 3; the others are ended"),
        (
            "listen(); print('error: no luck', file=sys.stderr, flush=True); print({}); sys.exit(1)",
            1,
            r"ended with status 1 \(no luck\); the others are ended; run again",
        ),
    ],
)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_takes_the_others_along(
    folder: Path, caplog: pytest.LogCaptureFixture, program: str, status: int, how: str, lost: int
) -> None:
    programs = [WAIT, WAIT]
    programs[lost] = program
    with pytest.raises(WorkerError, match=f"worker {lost} of 2 {how}") as failed:
        run(folder, *programs)
    assert failed.value.exit_status == status
    assert ("run again" in str(failed.value)) == (status != 3)
    assert "killing it" not in caplog.text


@pytest.mark.parametrize("option", ["--workers", "--start-timeout", "--grace-seconds"])
@pytest.mark.parametrize("number", ["0", "-1", "x", "nan", "inf"])
def test_wrong_numbers_are_refused(option: str, number: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([f"{option}={number}", "--", "train"])
    assert f"argument {option}: " in capfd.readouterr().err


def test_a_worker_that_hangs_at_start_is_named(folder: Path) -> None:
    with pytest.raises(WorkerError, match="worker 1 of 3 does not listen for its peers 2 s") as failed:
        run(folder, WAIT, "wait('never')", WAIT, start_timeout=2)
    assert failed.value.exit_status == 1


def test_a_worker_that_ignores_sigterm_is_killed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WorkerError, match="worker 1 of 2 ended with status 5"):
        run(folder, STUBBORN, "listen(); wait('stubborn'); sys.exit(5)", grace_seconds=0.2)
    assert "killing it" in caplog.text


statuses = st.lists(st.sampled_from([None, 0, 1, 2, 3, 4, 5, 42, 137, -9, -15]), min_size=1).filter(any)


@given(statuses)
def test_the_failure_that_explains_the_others_is_blamed(found: list[int | None]) -> None:
    status = failure(found, [""] * len(found)).exit_status
    final = [code for code in found if code in (2, 3, 4)]
    own = [code if code > 0 else 128 - code for code in found if code not in (None, 0, 42, *final)]
    assert status in (final or own or [42])


@pytest.fixture
def launcher(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A launcher of its own, whose two workers run."""
    command = [sys.executable, "-c", LAUNCHER, WORKER, str(folder), SAVE, SAVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not all((folder / f"up-{index}").exists() for index in (0, 1)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
        process.kill()


def test_sigterm_reaches_all_workers(launcher: subprocess.Popen[str]) -> None:
    launcher.terminate()
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 42
    assert output.endswith("run again to resume\n")


def test_workers_end_with_a_launcher_that_is_killed(launcher: subprocess.Popen[str], folder: Path) -> None:
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while any(is_running(int((folder / f"pid-{index}").read_text())) for index in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
