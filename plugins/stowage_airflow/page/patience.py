"""How much of the API server MLflow may take: whoever asks Airflow for something else does not wait for it.

Routes wait for MLflow on the threads on which Airflow answers everybody, running tasks included. So only a few pages at
a time may, the others wait for their turn without a thread, and after a silence of MLflow's nobody asks it for a while.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from packing.errors import TrackerAwayError, TrackingError

TURNS = 8


class BusyError(TrackingError):
    """Too many pages ask MLflow at the same time."""


class Gate:
    """At most so many `turns` at once; others wait `patience` seconds. After a silence all are refused for `rest`."""

    def __init__(self, turns: int = TURNS, patience: float = 2.0, rest: float = 4.0) -> None:
        self._free = threading.BoundedSemaphore(turns)
        self._patience, self._rest = patience, rest
        self._closed_until = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Ask MLflow within this; raises BusyError or TrackerAwayError."""
        await self._enter()
        try:
            yield
        except TrackerAwayError:
            self._closed_until = time.monotonic() + self._rest
            raise
        finally:
            self._free.release()

    async def _enter(self) -> None:
        give_up = time.monotonic() + self._patience
        while True:
            if time.monotonic() < self._closed_until:
                raise TrackerAwayError("MLflow did not answer a moment ago and was not asked again")
            if self._free.acquire(blocking=False):
                return
            if time.monotonic() >= give_up:
                raise BusyError("Too many pages ask MLflow at this moment. Open this page again in a few seconds.")
            await asyncio.sleep(0.05)
