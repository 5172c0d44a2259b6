"""The restricted master linear program of column generation, kept warm in HiGHS.

Minimise the packs used such that every length has slots enough; a slot of one length may hold a sequence of the next
shorter one that occurs, at no cost. These extra columns make duals non-decreasing in the length and convergence fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from packing.errors import StowageError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


_DUAL, _PRIMAL = 1, 4  # HiGHS: simplex_strategy


@dataclass(frozen=True, eq=False)
class LinearSolution:
    """`uses` float64[packs]: how often each pack is used; `duals` float64[L + 1] by length, 0 for those that do not occur."""

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
        self._row_of = np.zeros(len(counts), dtype=np.int32)
        self._row_of[self._lengths] = np.arange(len(self._lengths), dtype=np.int32)
        self._infinity = highspy.kHighsInf
        self._optimal = highspy.HighsModelStatus.kOptimal
        self._highs = highspy.Highs()
        for option, value in (("output_flag", False), ("threads", 1), ("presolve", "off"), ("solver", "simplex")):
            self._highs.setOptionValue(option, value)
        rows = len(self._lengths)
        none = np.zeros(0, dtype=np.int32)
        self._highs.addRows(
            rows, counts[self._lengths].astype(float), np.full(rows, self._infinity), 0, none, none, none.astype(float)
        )
        self._downgrades = rows - 1
        shorter = np.arange(rows - 1, dtype=np.int32)
        entries = np.stack((shorter, shorter + 1), axis=1).ravel()
        self._add_columns(0.0, 2 * shorter, entries, np.tile((1.0, -1.0), rows - 1))

    def add(self, packs: Iterable[tuple[int, ...]]) -> int:
        """Add those `packs` (lengths that occur, ascending) that are new; returns how many."""
        new = [pack for pack in dict.fromkeys(packs) if pack not in self._known]
        self._known.update(new)
        self.packs.extend(new)
        starts, rows, values = [], [], []
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
        rows = len(self._lengths)
        self._highs.changeRowsBounds(
            rows, np.arange(rows, dtype=np.int32), counts[self._lengths].astype(float), np.full(rows, self._infinity)
        )
        self._highs.setOptionValue("simplex_strategy", _DUAL)  # the last basis still prices every column right

    def solve(self) -> LinearSolution:
        """The optimum over the columns so far. Raises StowageError if HiGHS fails."""
        self._highs.run()
        status = self._highs.getModelStatus()
        if status != self._optimal:
            raise StowageError(f"linear program: expected an optimal basis from HiGHS, found {status}; report this")
        solution = self._highs.getSolution()
        duals = np.zeros(len(self._row_of))
        duals[self._lengths] = solution.row_dual
        uses = np.array(solution.col_value)[self._downgrades :]
        return LinearSolution(self._highs.getInfo().objective_function_value, uses, duals)

    def _add_columns(self, cost: float, starts: Ints, rows: Ints, values: Floats) -> None:
        number = len(starts)
        self._highs.addCols(
            number, np.full(number, cost), np.zeros(number), np.full(number, self._infinity), len(rows), starts, rows, values
        )
