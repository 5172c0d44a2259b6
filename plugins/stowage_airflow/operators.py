"""Training in a process of its own: importing TensorFlow into a task costs 9 CPU-seconds and 700 MB."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from stowage_airflow.connections import task_errors, training_environment

if TYPE_CHECKING:
    from airflow.sdk import Context

NO_RETRY_STATUSES = (2, 3, 4)
"""Wrong usage, bad input, failed verification: a retry would fail in the same way."""

_GRACE_SECONDS = 60
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


class LaunchTrainingOperator(BaseOperator):
    """Run a `command` of `python -m training` with `options` on this machine and return the figures that it prints.

    The process gets the store's and MLflow's connections through its environment. It is stopped with SIGTERM when the
    task is; it then saves a checkpoint and exits with status 42, from which a retry resumes.
    """

    template_fields: Sequence[str] = ("options",)

    def __init__(self, *, command: str, options: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.options = dict(options)
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - the signature is Airflow's
        """Stream the process's output into the task's log; its last line is the result."""
        command = [sys.executable, "-m", "training", self.command, "--json", *_arguments(self.options)]
        with task_errors():
            environment = {**os.environ, **training_environment(), "PYTHONUNBUFFERED": "1"}
        self.log.info("starting %s", " ".join(command[1:]))
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - nothing has started a thread in this task yet
        )
        with ThreadPoolExecutor(1) as pool:
            progress = pool.submit(self._log_lines, self._process.stderr)
            try:
                result = self._log_lines(self._process.stdout)
                # Not wait(): on_kill may run inside it, in a signal's handler, and would wait for its lock for ever.
                while (status := self._process.poll()) is None:
                    time.sleep(_POLL_SECONDS)
            finally:
                self.on_kill()
        _raise_for(status, progress.result())
        return _parse(result)

    def _log_lines(self, lines: Iterable[str] | None) -> str:
        """Pass on what the process prints, as it does; returns the last line."""
        last = ""
        for line in lines or ():
            last = line.rstrip()
            self.log.info("%s", last)
        return last

    def on_kill(self) -> None:
        """Stop the process and all that it started."""
        if self._process is None or self._process.poll() is not None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _end_with_parent() -> None:
    """Have Linux send SIGTERM to this process when the task's is killed, as a retry will use the same folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _arguments(options: Mapping[str, Any]) -> list[str]:
    """Command-line options: True is a flag, False and None are left out."""
    arguments = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False and value != "":
            arguments += [flag, str(value)]
    return arguments


def _raise_for(status: int, last: str) -> None:
    if status in NO_RETRY_STATUSES:
        raise AirflowFailException(f"training ended with status {status}: {last}")
    if status:
        raise AirflowException(f"training ended with status {status}: {last}")


def _parse(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError as exc:
        raise AirflowException(f"training ended with status 0, expected one JSON object, found {line!r}") from exc
