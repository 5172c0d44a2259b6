"""Child processes that never outlive this one.

Each child leads a session of its own, so that a terminal's Ctrl-C reaches this process alone, which then stops them in
reverse order. On Linux this process also becomes the parent of every orphan below it (a child subreaper), so that
grandchildren that left their group are found and stopped as well, and children get SIGTERM if this process is killed.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from demo.errors import DemoError

GRACE_SECONDS = 15.0
POLL_SECONDS = 0.05
TAIL_LINES = 30
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Child:
    """A started process, with its output in `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    is_job: bool
    check_all: Callable[[], None]

    def wait(self) -> None:
        """Wait until a job has ended; raises DemoError if it failed."""
        # A signal that arrives just before a blocking call is noticed after it only, so none may last long.
        while self.process.poll() is None:
            self.check_all()
            time.sleep(POLL_SECONDS)
        self.check()

    def check(self) -> None:
        """Raise DemoError, with the end of the log, if a job failed or a server is no longer there."""
        status = self.process.poll()
        if status is None or (self.is_job and status == 0):
            return
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        raise DemoError("\n".join([f"{self.name} ended with status {status}; its log {self.log} ends with:", *lines]))


class Supervisor:
    """Starts children with their logs in `logs`, and stops them all when its block is left, however it is left.

    A process has `grace` seconds to end when asked to, then it is killed. Everything that appeared below this process
    inside the block is stopped; what an outer supervisor started is not. It must be entered in the main thread: SIGINT,
    SIGTERM and SIGHUP become KeyboardInterrupt inside the block, and are ignored while the children are being stopped.
    """

    def __init__(self, logs: Path, *, grace: float = GRACE_SECONDS) -> None:
        self.logs = logs
        self._grace = grace
        self._children: list[Child] = []
        self._handlers: dict[int, Any] = {}
        self._foreign: frozenset[int] = frozenset()
        self._was_subreaper = False
        self._interrupted = False
        self._stopping = False

    def __enter__(self) -> Supervisor:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._foreign = frozenset(descendants(os.getpid()))
        self._was_subreaper = _is_subreaper()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        # A signal can arrive between the end of the block and the first line of `_stop`.
        atexit.register(self._stop)
        self._handlers = {number: signal.signal(number, self._interrupt) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        atexit.unregister(self._stop)
        _prctl(_PR_SET_CHILD_SUBREAPER, int(self._was_subreaper))
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a process that is to run until it is stopped."""
        return self._start(name, command, environment, is_job=False)

    def start_job(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a process that is to end by itself with status 0."""
        return self._start(name, command, environment, is_job=True)

    def check(self) -> None:
        """Raise DemoError for the first child that failed, and an interrupt that got lost.

        Python drops an exception that a signal's handler raises inside a hook or a finalizer, so loops must ask.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        for child in self._children:
            child.check()

    def forget(self, child: Child) -> None:
        """No longer expect a child to run, as before ending it; what it leaves is still stopped with the block."""
        self._children.remove(child)

    def _start(self, name: str, command: Sequence[str], environment: Mapping[str, str], *, is_job: bool) -> Child:
        log = self.logs / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as output, _signals_blocked():
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child,  # noqa: PLW1509 - this process starts children from its main thread only
            )
        child = Child(name, process, log, is_job, self.check)
        self._children.append(child)
        return child

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        if not self._stopping:
            self._interrupted = True
            raise KeyboardInterrupt(signal.Signals(number).name)

    def _stop(self) -> None:
        # A second Ctrl-C must not break this off; it has a time limit of its own.
        self._stopping = True
        for child in reversed(self._children):
            _stop_child(child.process, self._grace)
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + self._grace
            signalled: set[int] = set()
            # Listed again and again, as a process can start another one after it was listed.
            while (left := set(self._reap_and_list())) and time.monotonic() < deadline:
                for pid in left - signalled:
                    _signal(pid, number)
                signalled |= left
                time.sleep(POLL_SECONDS)

    def _reap_and_list(self) -> list[int]:
        """The descendants that are left, once the dead ones that this process inherited are collected."""
        for pid in descendants(os.getpid(), self._foreign):
            with suppress(ChildProcessError):  # it is further below
                os.waitpid(pid, os.WNOHANG)
        return descendants(os.getpid(), self._foreign)


def _stop_child(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ask the process's group to end, and kill it if it has not after `grace` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # A process that was waited for has given up its id, which may be a stranger's by now.
        if process.poll() is None:
            _signal(process.pid, number)
        deadline = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def descendants(pid: int, but: frozenset[int] = frozenset()) -> list[int]:
    """The process ids below `pid`, without those of `but` and what is below them; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The command's name, in parentheses, may itself hold spaces and parentheses.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = [child for child in children.get(waiting.pop(), []) if child not in but]
        found += below
        waiting += below
    return found


def _signal(pid: int, number: int) -> None:
    """Send a signal to the process's group if it leads one, and to itself otherwise; it may be gone already."""
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _is_subreaper() -> bool:
    found = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found))
    return bool(found.value)


def _prctl(option: int, value: Any) -> None:
    if _libc is not None and _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Hold signals back while forking: until it has a session of its own, a child gets this process's Ctrl-C too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_child() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
