"""Whatever is started is stopped, however the block is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from demo.errors import DemoError
from demo.processes import Supervisor, descendants

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finding orphans needs /proc"),
]

# A server with a child in a session of its own, whose parent has gone: what signals to groups do not reach.
STRAY = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
print("ready", flush=True)
time.sleep(1000)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(1000)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + 20
    while not (log.exists() and text in log.read_text()):
        assert time.monotonic() < deadline, f"no {text!r} in {log}"
        time.sleep(0.05)


def test_grandchildren_in_sessions_of_their_own_are_stopped_too(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("stray", python(STRAY), os.environ)
        wait_for("ready", tmp_path / "stray.log")
        assert len(set(descendants(os.getpid())) - before) >= 2
    assert set(descendants(os.getpid())) <= before


def test_a_server_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.start("server", python("print('out of luck'); raise SystemExit(3)"), os.environ)
        child.process.wait()
        with pytest.raises(DemoError, match=r"(?s)server ended with status 3.*out of luck"):
            supervisor.check()


def test_a_supervisor_inside_another_stops_its_own_and_leaves_the_rest_to_the_other(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))
    with Supervisor(tmp_path / "outer") as outer:
        server = outer.start("server", python("import time; time.sleep(1000)"), os.environ)
        with Supervisor(tmp_path / "inner") as inner:
            inner.start("stray", python(STRAY), os.environ)
            wait_for("ready", tmp_path / "inner" / "stray.log")
        assert set(descendants(os.getpid())) - before == {server.process.pid}
        outer.start("stray", python(STRAY), os.environ)
        wait_for("ready", tmp_path / "outer" / "stray.log")
        deadline = time.monotonic() + 20
        # The server, the stray, its child that has ended, and that one's child: the last must be adopted.
        while len(set(descendants(os.getpid())) - before) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert set(descendants(os.getpid())) <= before


def test_a_forgotten_server_may_end_and_what_it_leaves_is_stopped(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))
    with Supervisor(tmp_path) as supervisor:
        server = supervisor.start("stray", python(STRAY), os.environ)
        wait_for("ready", tmp_path / "stray.log")
        supervisor.forget(server)
        server.process.kill()
        server.process.wait()
        supervisor.check()
        assert set(descendants(os.getpid())) - before
    assert set(descendants(os.getpid())) <= before


def test_a_job_may_end_but_not_fail(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start_job("good", python("print('done')"), os.environ).wait()
        supervisor.check()
        with pytest.raises(DemoError, match="bad ended with status 1"):
            supervisor.start_job("bad", python("raise SystemExit(1)"), os.environ).wait()


SUPERVISED = """
import os, sys, time
from pathlib import Path
from demo.processes import Supervisor
code, logs = sys.argv[1], Path(sys.argv[2])
try:
    with Supervisor(logs) as supervisor:
        for number in range(4):
            supervisor.start(f"child {number}", [sys.executable, "-c", code], os.environ)
            print("started", number, flush=True)
        while True:
            time.sleep(0.1)
except KeyboardInterrupt:
    sys.exit(130)
"""


def alive(marker: str) -> list[str]:
    """Processes that have `marker` in their command line."""
    return [str(path) for path in Path("/proc").glob("[0-9]*/cmdline") if marker.encode() in content(path)]


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.5])
def test_a_signal_at_any_moment_leaves_nothing(tmp_path: Path, number: signal.Signals, delay: float) -> None:
    marker = f"marker-{tmp_path.name}-{os.getpid()}"
    code = f"# {marker}\n{STRAY}"
    process = subprocess.Popen([sys.executable, "-c", SUPERVISED, code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"started 0")
    time.sleep(delay)
    process.send_signal(number)
    assert process.wait(60) == 130
    assert alive(marker) == []


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    with Supervisor(tmp_path, grace=0.5) as supervisor:
        child = supervisor.start("stubborn", python(STUBBORN), os.environ)
        wait_for("ready", tmp_path / "stubborn.log")
    assert child.process.poll() is not None
