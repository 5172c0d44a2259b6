"""SIGTERM means: finish the step, save, and leave with status 42, which tells a scheduler to start again and resume."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from packing.errors import StowageError


class PreemptedError(StowageError):
    """Training was asked to stop and has saved a checkpoint."""

    exit_status = 42


class PeerLostError(StowageError):
    """Another worker is gone, without which no step can be taken; all have to start again, and resume."""

    exit_status = 42


@contextmanager
def sigterm_requests_stop() -> Iterator[Callable[[], bool]]:
    """Within the context SIGTERM only sets a flag; yields the function that reads it. Main thread only."""
    requested = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal requested
        requested = True

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGTERM, previous)
