"""Several workers of a run as processes of this machine: `python -m training.launchers.local --workers 2 -- train ...`.

What Kubernetes does for pods: each worker gets TF_CONFIG, has to listen for its peers within the start timeout, and
takes the others with it when it fails. The chief's output is this program's; the others' lines name their worker.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from packing.errors import StowageError
from training.launchers.kubernetes import NO_RETRY_STATUSES
from training.options import positive
from training.preemption import PreemptedError, sigterm_requests_stop

GRACE_SECONDS = 50.0
"""From SIGTERM to SIGKILL; below the minute that Airflow gives a task that it stops."""

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.2
_PRINTING_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_ERROR = "error: "
"""How `python -m training` begins the line that says why it fails."""

logger = logging.getLogger(__name__)


class WorkerError(StowageError):
    """A worker has failed, and the others were ended; `exit_status` is the worker's, as a shell would give it."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Worker:
    """One process of the run: worker `index`, which is to listen for its peers on `port`."""

    def __init__(self, command: Sequence[str], tf_config: str) -> None:
        config = json.loads(tf_config)
        self.index: int = config["task"]["index"]
        self.port = int(config["cluster"]["worker"][self.index].rpartition(":")[2])
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "TF_CONFIG": tf_config},
            stdout=None if self.index == 0 else subprocess.PIPE,
            stderr=subprocess.PIPE if self.index == 0 else subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=end_with_parent,  # noqa: PLW1509 - only prctl, which takes no lock
        )
        self._error = ""
        self._printer = threading.Thread(target=self._print_lines, daemon=True)
        self._printer.start()

    @property
    def listens(self) -> bool:
        """Whether it answers its peers."""
        try:
            with socket.create_connection((_HOST, self.port), timeout=1) as found:
                # A connection to a free port can happen to be one with itself.
                return bool(found.getsockname() != found.getpeername())
        except OSError:
            return False

    def last_words(self) -> str:
        """The error that it has ended with, if it has named one; waits until all that it printed is passed on."""
        self._printer.join(_PRINTING_SECONDS)
        return self._error

    def _print_lines(self) -> None:
        name = "" if self.index == 0 else f"worker {self.index}: "
        for line in self.process.stderr or self.process.stdout or ():
            text = line.rstrip()
            sys.stderr.write(f"{name}{text}\n")
            self._error = text.removeprefix(_ERROR) if text.startswith(_ERROR) else self._error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m training` with the arguments after `--` as several workers; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.launchers.local", description=__doc__)
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="processes (2)")
    parser.add_argument("--start-timeout", type=_seconds, default=600.0, metavar="S", help="for each to listen (600)")
    parser.add_argument(
        "--grace-seconds", type=_seconds, default=GRACE_SECONDS, metavar="S", help=f"to save ({GRACE_SECONDS:g})"
    )
    parser.add_argument("arguments", nargs="+", metavar="ARGUMENT", help="of `python -m training`, after --")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.INFO)
    command = [sys.executable, "-m", "training", *options.arguments]
    limits = {"start_timeout": options.start_timeout, "grace_seconds": options.grace_seconds}
    try:
        run_workers(command, options.workers, **limits)
    except StowageError as exc:
        sys.stderr.write(f"{_ERROR}{exc}\n")
        return exc.exit_status
    return 0


def _seconds(text: str) -> float:
    """A number above 0, as a type of options."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text}")
    return seconds


def run_workers(
    command: Sequence[str], workers: int, *, start_timeout: float, grace_seconds: float = GRACE_SECONDS
) -> None:
    """Run `command` as `workers` processes and wait for all; raises WorkerError if one fails, after ending the others.

    SIGTERM is passed on to all of them. Main thread only.
    """
    started: list[Worker] = []
    with sigterm_requests_stop() as stop_requested:
        try:
            started.extend(Worker(command, tf_config) for tf_config in cluster(workers))
            _wait(started, start_timeout, stop_requested)
        finally:
            _end(started, grace_seconds)
            for worker in started:
                worker.last_words()


def cluster(workers: int) -> list[str]:
    """TF_CONFIG of each worker, on ports that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for free in sockets:
            free.bind((_HOST, 0))
        addresses = [f"{_HOST}:{free.getsockname()[1]}" for free in sockets]
    tasks = [{"type": "worker", "index": index} for index in range(workers)]
    return [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]


def _wait(workers: Sequence[Worker], start_timeout: float, stop_requested: Callable[[], bool]) -> None:
    silent, deadline = dict(enumerate(workers)), time.monotonic() + start_timeout
    while True:
        statuses = [worker.process.poll() for worker in workers]
        if any(statuses):
            raise failure(statuses, [worker.last_words() if worker.process.poll() else "" for worker in workers])
        if all(status == 0 for status in statuses):
            return
        if stop_requested():
            raise WorkerError("SIGTERM: all workers are ended; run again to resume", PreemptedError.exit_status)
        silent = {index: worker for index, worker in silent.items() if statuses[index] is None and not worker.listens}
        if silent and time.monotonic() > deadline:
            names = ", ".join(map(str, silent))
            raise WorkerError(
                f"worker {names} of {len(workers)} does not listen for its peers {start_timeout:g} s after its start; "
                "all are ended; see what it printed, and run again to resume"
            )
        time.sleep(_POLL_SECONDS)


def failure(statuses: Sequence[int | None], last_words: Sequence[str]) -> WorkerError:
    """Blames the worker whose status explains most."""
    index = min((index for index, status in enumerate(statuses) if status), key=lambda index: blame(statuses[index]))
    status = statuses[index] or 0
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    why = f" ({last_words[index]})" if last_words[index] else ""
    again = "" if status in NO_RETRY_STATUSES else "; run again to resume"
    message = f"worker {index} of {len(statuses)} {how}{why}; the others are ended{again}"
    return WorkerError(message, 128 - status if status < 0 else status)


def blame(status: int | None) -> int:
    """Lowest for a failure that explains the run's: one that no retry helps, else one that is not a lost peer's."""
    if status in NO_RETRY_STATUSES:
        return 0
    return 2 if status == PreemptedError.exit_status else 1


def _end(workers: Sequence[Worker], grace_seconds: float) -> None:
    """SIGTERM to those that still run, SIGKILL after the grace."""
    deadline = time.monotonic() + grace_seconds
    running = [worker.process for worker in workers if worker.process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("process %d has not ended %g s after SIGTERM: killing it", process.pid, grace_seconds)
            process.kill()
            process.wait()


def end_with_parent() -> None:
    """In a new process: have Linux send it SIGTERM when its parent is killed, as a retry will use the same folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
