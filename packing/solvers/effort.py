"""How much work a search may still do, counted in steps rather than seconds, so that every machine stops at the same.

A step is one column that one simplex iteration passes over, some ten nanoseconds; the other work that depends on the
size of the problem is converted to steps by what it takes on average. A deadline, if there is one, comes on top.
"""

from __future__ import annotations

import math
import time


class Effort:
    """What is left: `steps`, and the time to `deadline` (`time.monotonic()`).

    `solves` counts the linear programs solved, `late` says whether the deadline was seen to have passed.
    """

    def __init__(self, steps: float = math.inf, deadline: float = math.inf) -> None:
        self.steps = steps
        self.deadline = deadline
        self.solves = 0
        self.late = False

    def spend(self, steps: float) -> None:
        self.steps -= steps

    @property
    def spent(self) -> bool:
        """Whether the search has to end with what it has."""
        self.late = self.late or time.monotonic() >= self.deadline
        return self.late or self.steps <= 0
