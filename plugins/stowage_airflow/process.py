"""A command in a process of its own, its output in the task's log while it runs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

from training.launchers.local import end_with_parent

GRACE_SECONDS = 60
"""From SIGTERM to SIGKILL."""

_POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


class TaskProcess:
    """One process and all that it starts, which end when it is stopped and when the task's own process does."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - nothing has started a thread in this task yet
        )

    def run(self, watch: Callable[[str], None] = lambda _: None) -> tuple[int, str, str]:
        """Its exit status, and the last lines of its output and of its messages, each of which `watch` gets at once."""
        with ThreadPoolExecutor(2) as pool:
            result = pool.submit(_log_lines, self._process.stdout)
            progress = pool.submit(_log_lines, self._process.stderr, watch)
            try:
                # Not wait(): stop() may run inside it, in a signal's handler, and would wait for its lock for ever.
                while (status := self._process.poll()) is None:
                    time.sleep(_POLL_SECONDS)
                # What it has started may live on, if it was killed, and is told to save and end.
                wait((result, progress), GRACE_SECONDS)
            finally:
                self.stop()
        return status, result.result(), progress.result()

    def stop(self) -> None:
        """SIGTERM, a grace to save, and SIGKILL for all that is left."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _log_lines(lines: Iterable[str] | None, watch: Callable[[str], None] = lambda _: None) -> str:
    """Pass on what the process prints, as it does; returns the last line."""
    last = ""
    for line in lines or ():
        last = line.rstrip()
        log.info("%s", last)
        watch(last)
    return last
