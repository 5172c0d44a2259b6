"""Waiting for something to become true while the processes that it depends on are alive."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from demo.errors import DemoError
from demo.processes import Supervisor

POLL_SECONDS = 0.25

Value = TypeVar("Value")


def wait_until(look: Callable[[], Value], what: str, supervisor: Supervisor, seconds: float) -> Value:
    """Call `look` until it returns something true, and return that.

    Raises DemoError after `seconds`, or as soon as a supervised process has ended.
    """
    deadline = time.monotonic() + seconds
    while not (value := look()):
        supervisor.check()
        if time.monotonic() > deadline:
            raise DemoError(f"waited {seconds:.0f} s for {what}; see the logs in {supervisor.logs}")
        time.sleep(POLL_SECONDS)
    return value
