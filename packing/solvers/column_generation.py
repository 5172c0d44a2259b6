"""Column generation (Gilmore and Gomory, 1961): the linear relaxation of packing over all possible packs.

The master knows some packs; its duals price the sequences; the knapsack finds, for every length, the most valuable
pack that holds it. Packs worth more than one join the master. The same values prove a bound in each round, in
integers, whatever the floating-point solver did; once no pack is worth more than one, it equals the optimum.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from packing.solvers.bounds import Bound, prove
from packing.solvers.knapsack import Ints, completions
from packing.solvers.master import Floats, LinearSolution, Master
from packing.types import Histogram

METHOD = "column generation"
_PRICE_SCALE = 2**40
_WORTHWHILE = 1 + 1e-9


@dataclass(frozen=True, eq=False)
class Relaxed:
    """The relaxation of one demand: `bound` is proven; `optimal` unless a limit ended the search."""

    solution: LinearSolution
    bound: Bound
    optimal: bool


class Relaxation:
    """Solves the relaxation for a histogram, and then for what is left of it, with the packs found so far."""

    def __init__(self, histogram: Histogram, max_sequences_per_pack: int, packs: list[tuple[int, ...]]) -> None:
        self._max_sequences = max_sequences_per_pack
        counts = _by_length(histogram)
        self._master = Master(counts)
        self._master.add(packs + _start_packs(counts, max_sequences_per_pack))
        self.iterations = 0

    @property
    def packs(self) -> list[tuple[int, ...]]:
        """The columns, in the order of `LinearSolution.uses`."""
        return self._master.packs

    def solve(self, demand: Histogram, deadline: float, most_rounds: int | None = None) -> Relaxed:
        """Generate columns until the bound proven for `demand` is the optimum, rounded up."""
        counts = _by_length(demand)
        self._master.demand(counts)
        best: Bound | None = None
        rounds = 0
        while True:
            solution = self._master.solve()
            self.iterations += 1
            rounds += 1
            prices = _integer_prices(solution.duals, counts)
            packs, values = _best_packs(prices, counts, self._max_sequences)
            bound = _bound(demand, prices, int(values.max()))
            best = bound if best is None or bound.packs > best.packs else best
            if best.packs >= solution.objective - 1e-6:
                return Relaxed(solution, best, optimal=True)
            worth = packs[values > _PRICE_SCALE * _WORTHWHILE]
            if not self._master.add(tuple(length for length in pack if length) for pack in worth.tolist()):
                return Relaxed(solution, best, optimal=True)
            if rounds == most_rounds or time.monotonic() >= deadline:
                return Relaxed(solution, best, optimal=False)


def _by_length(histogram: Histogram) -> Ints:
    return np.array((0, *histogram.counts), dtype=np.int64)


def _integer_prices(duals: Floats, counts: Ints) -> Ints:
    prices = np.rint(np.clip(duals, 0.0, 1.0) * _PRICE_SCALE).astype(np.int64)
    return np.where(counts > 0, prices, 0)


def _best_packs(prices: Ints, counts: Ints, max_sequences_per_pack: int) -> tuple[Ints, Ints]:
    """For each length that occurs the most valuable pack that holds it (ascending, 0 for none), and its value."""
    lengths = np.flatnonzero(counts)
    rest = len(counts) - 1 - lengths
    best = completions(prices, max_sequences_per_pack - 1)
    packs = np.hstack((lengths[:, None], best.lengths(rest)))
    return np.sort(packs, axis=1), prices[lengths] + best.values[rest]


def _bound(demand: Histogram, prices: Ints, best_pack_value: int) -> Bound:
    """What the prices prove. A longer sequence may cost as much as any shorter one: no best pack changes."""
    rising = np.maximum.accumulate(prices)[1:]
    return prove(demand, rising.tolist(), max(1, best_pack_value), METHOD)


def _start_packs(counts: Ints, max_sequences_per_pack: int) -> list[tuple[int, ...]]:
    """For each length: alone, with the longest that fits beside it, and with K - 1 equal ones as long as fit."""
    capacity = len(counts) - 1
    longest = np.maximum.accumulate(np.where(counts > 0, np.arange(capacity + 1), 0))
    packs: list[tuple[int, ...]] = []
    for length in np.flatnonzero(counts).tolist():
        packs.append((length,))
        for others in sorted({1, max_sequences_per_pack - 1} - {0}):
            filler = int(longest[(capacity - length) // others])
            if filler:
                packs.append(tuple(sorted((length,) + (filler,) * others)))
    return packs
