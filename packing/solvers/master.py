"""The restricted master linear program of column generation, kept warm in HiGHS.

Minimise the packs used such that every length has slots enough; a slot of one length may hold a sequence of the next
shorter one that occurs, at no cost. These extra columns keep the duals from falling with the length, as they should,
and make convergence fast.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.errors import StowageError
from packing.solvers.effort import Effort
from packing.solvers.knapsack import Ints

Floats = npt.NDArray[np.float64]

_DUAL, _PRIMAL = 1, 4  # HiGHS: simplex_strategy
_ROW_STEPS = 4  # of one iteration; a row costs as much as four columns
_SOLVE_ITERATIONS = 20  # what starting and reading a solution costs, as iterations
_MOST_ITERATIONS = 2**31 - 1  # HiGHS: no limit
_LARGEST_DEMAND = 2.0**26  # beyond, demands are scaled down: HiGHS works with absolute tolerances


@dataclass(frozen=True, eq=False)
class LinearSolution:
    """`uses` float64[packs]: how often each pack is used; `duals` float64[L + 1] by length, 0 where none occurs."""

    objective: float
    uses: Floats
    duals: Floats


class Master:
    """One row for each length that occurs in `counts` (int64[L + 1] by length), one column for each of `packs`."""

    def __init__(self, counts: Ints) -> None:
        import highspy

        self.packs: list[tuple[int, ...]] = []
        self._known: set[tuple[int, ...]] = set()
        self._lengths = np.flatnonzero(counts)
        self._rows = np.arange(len(self._lengths), dtype=np.int32)
        self._row_of = np.zeros(len(counts), dtype=np.int32)
        self._row_of[self._lengths] = self._rows
        self._unbounded = np.full(len(self._rows), highspy.kHighsInf)
        self._scale = 1.0
        self._status = highspy.HighsModelStatus
        library: Any = highspy  # its type information lacks half of its methods
        self._highs = library.Highs()
        for option, value in (("output_flag", False), ("threads", 1), ("presolve", "off"), ("solver", "simplex")):
            self._highs.setOptionValue(option, value)
        none = np.zeros(0, dtype=np.int32)
        self._highs.addRows(len(self._rows), np.zeros(len(self._rows)), self._unbounded, 0, none, none, np.zeros(0))
        longer = self._rows[1:]
        entries = np.stack((longer - 1, longer), axis=1).ravel()
        self._add_columns(0.0, 2 * self._rows[: len(longer)], entries, np.tile((1.0, -1.0), len(longer)))

    def add(self, packs: Iterable[tuple[int, ...]]) -> int:
        """Add those `packs` (lengths that occur, ascending) that are new; returns how many."""
        new = [pack for pack in dict.fromkeys(packs) if pack not in self._known]
        self._known.update(new)
        self.packs.extend(new)
        starts: list[int] = []
        rows: list[int] = []
        values: list[float] = []
        for pack in new:
            starts.append(len(rows))
            for length in dict.fromkeys(pack):
                rows.append(self._row_of[length])
                values.append(float(pack.count(length)))
        self._add_columns(1.0, np.array(starts, dtype=np.int32), np.array(rows, dtype=np.int32), np.array(values))
        self._highs.setOptionValue("simplex_strategy", _PRIMAL)  # the last basis is still feasible
        return len(new)

    def demand(self, counts: Ints) -> None:
        """Ask for other counts of the same lengths."""
        wanted = counts[self._lengths].astype(np.float64)
        self._scale = max(1.0, float(wanted.sum()) / _LARGEST_DEMAND)
        self._highs.changeRowsBounds(len(self._rows), self._rows, wanted / self._scale, self._unbounded)
        self._highs.setOptionValue("simplex_strategy", _DUAL)  # the last basis still prices every column right

    def solve(self, effort: Effort) -> LinearSolution | None:
        """The optimum over the packs so far; None if `effort` was spent first.

        Raises StowageError if HiGHS fails.
        """
        if effort.spent:
            return None
        if effort.deadline < math.inf:
            seconds = max(0.0, effort.deadline - time.monotonic())
            self._highs.setOptionValue("time_limit", self._highs.getRunTime() + seconds)  # counts all runs together
        steps = len(self.packs) + _ROW_STEPS * len(self._rows)
        self._highs.setOptionValue("simplex_iteration_limit", int(min(effort.steps / steps, _MOST_ITERATIONS)))
        self._highs.run()
        effort.solves += 1
        effort.spend(steps * (max(0, self._highs.getInfo().simplex_iteration_count) + _SOLVE_ITERATIONS))
        status = self._highs.getModelStatus()
        if status in (self._status.kTimeLimit, self._status.kIterationLimit):
            effort.steps = 0  # what is left does not pay for another
            return None
        if status != self._status.kOptimal:
            raise StowageError(f"linear program: expected an optimum from HiGHS, found {status}; report the histogram")
        solution = self._highs.getSolution()
        duals = np.zeros(len(self._row_of))
        duals[self._lengths] = solution.row_dual
        uses = np.array(solution.col_value)[len(self._rows) - 1 :]
        return LinearSolution(self._highs.getObjectiveValue() * self._scale, uses * self._scale, duals)

    def _add_columns(
        self, cost: float, starts: npt.NDArray[np.int32], rows: npt.NDArray[np.int32], values: Floats
    ) -> None:
        number = len(starts)
        costs, lower, upper = np.full(number, cost), np.zeros(number), np.full(number, self._unbounded[0])
        self._highs.addCols(number, costs, lower, upper, len(rows), starts, rows, values)
