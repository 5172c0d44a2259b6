"""A supervisor against processes that resist, and one that is itself interrupted again or killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.processes import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finding orphans needs /proc"),
]

MARK = "STOWAGE_TEST_MARK"
REPOSITORY = Path(__file__).parent.parent.parent

HEADER = """
import os, subprocess, sys, time
from pathlib import Path
from demo.processes import Supervisor
from demo.waiting import wait_until

logs = Path(sys.argv[1])
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
RESIST = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('ready', flush=True); time.sleep(600)"
# What it leaves behind is in a session of its own, has no parent any more, and ignores SIGTERM.
LEAVE = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {RESIST!r}], start_new_session=True)"

def start_resisting(supervisor):
    stubborn = supervisor.start("stubborn", [sys.executable, "-c", RESIST], os.environ)
    orphan = supervisor.start_job("orphan", [sys.executable, "-c", LEAVE], os.environ)
    orphan.wait()
    for child in (stubborn, orphan):
        wait_until(lambda: b"ready" in child.log.read_bytes(), child.name, supervisor, 30)
    print("up", flush=True)

"""


class Script:
    """A Python process that supervises others; all of them carry a mark in their environment."""

    def __init__(self, body: str, logs: Path) -> None:
        value = str(uuid.uuid4())
        self.mark = f"{MARK}={value}".encode()
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEADER + body, str(logs)],
            cwd=REPOSITORY,
            env={**os.environ, MARK: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_up(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def others(self) -> list[int]:
        """The marked processes but the script itself."""
        folders = [folder for folder in Path("/proc").glob("[0-9]*") if self.mark in _environment(folder)]
        return [int(folder.name) for folder in folders if folder.name != str(self.process.pid)]

    def end(self) -> tuple[int, str, str]:
        """Wait for the script; its status and what it wrote."""
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors


def _environment(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[[str], Script]]:
    started: list[Script] = []

    def start(body: str) -> Script:
        started.append(Script(body, tmp_path))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()
        for pid in each.others():
            os.kill(pid, signal.SIGKILL)


def wait_for(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline, "nothing changed in 30 s"
        time.sleep(0.02)


def test_an_orphan_that_ignores_sigterm_is_killed(script: Callable[[str], Script]) -> None:
    supervised = script("""
with Supervisor(logs, grace=0.5) as supervisor:
    start_resisting(supervisor)
    time.sleep(0.1)
print("stopped")
""")
    supervised.wait_until_up()
    assert supervised.end() == (0, "stopped\n", "")
    assert supervised.others() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_further_signals_do_not_break_off_the_stopping(script: Callable[[str], Script], number: signal.Signals) -> None:
    supervised = script("""
with Supervisor(logs, grace=0.5) as supervisor:
    start_resisting(supervisor)
    time.sleep(600)
""")
    supervised.wait_until_up()
    assert len(supervised.others()) == 2
    # Not until the process has ended: one that arrives while Python prints the first takes its place.
    while supervised.others():
        supervised.process.send_signal(number)
        time.sleep(0.01)
    _, _, errors = supervised.end()
    assert f"KeyboardInterrupt: {number.name}" in errors
    assert supervised.others() == []


def test_children_end_when_the_supervisor_is_killed(script: Callable[[str], Script]) -> None:
    supervised = script("""
with Supervisor(logs) as supervisor:
    supervisor.start("sleep", SLEEP, os.environ)
    print("up", flush=True)
    time.sleep(600)
""")
    supervised.wait_until_up()
    assert len(supervised.others()) == 1
    supervised.process.kill()
    wait_for(lambda: not supervised.others())


def test_what_ran_before_is_left_alone(script: Callable[[str], Script]) -> None:
    supervised = script("""
before = subprocess.Popen(SLEEP)
with Supervisor(logs) as supervisor:
    supervisor.start("sleep", SLEEP, os.environ)
print(before.poll())
before.kill()
print(before.wait())
""")
    assert supervised.end() == (0, f"None\n{-signal.SIGKILL}\n", "")


def test_a_port_that_is_taken_ends_the_wait_with_the_servers_reason(script: Callable[[str], Script]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code = f"import socket; socket.socket().bind(('127.0.0.1', {taken.getsockname()[1]}))"
        supervised = script(f"""
with Supervisor(logs) as supervisor:
    supervisor.start("sleep", SLEEP, os.environ)
    supervisor.start("server", [sys.executable, "-c", {code!r}], os.environ)
    wait_until(lambda: False, "the server", supervisor, 60)
""")
        status, _, errors = supervised.end()
    assert status == 1
    assert "server ended with status 1; its log" in errors
    assert "Address already in use" in errors
    assert supervised.others() == []


def test_a_server_may_not_end_not_even_well(script: Callable[[str], Script]) -> None:
    supervised = script("""
with Supervisor(logs) as supervisor:
    supervisor.start("server", [sys.executable, "-c", "pass"], os.environ)
    wait_until(lambda: False, "the server", supervisor, 60)
""")
    assert "server ended with status 0; its log" in supervised.end()[2]


def test_a_wait_in_vain_names_what_was_waited_for_and_the_logs(script: Callable[[str], Script], tmp_path: Path) -> None:
    supervised = script("""
with Supervisor(logs) as supervisor:
    wait_until(lambda: False, "a miracle", supervisor, 0.5)
""")
    _, _, errors = supervised.end()
    assert f"a miracle; see the logs in {tmp_path}" in errors


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
        server.listen()
