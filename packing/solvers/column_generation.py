"""Column generation (Gilmore and Gomory, 1961): the linear relaxation of packing over all possible packs.

The master knows some packs; its duals price the sequences; the knapsack finds, for every length, the most valuable
pack that holds it. Packs worth more than one join the master. The same values prove a bound in each round, in
integers, whatever the floating-point solver did; once no pack is worth more than one, it equals the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from packing.solvers import lpfhp
from packing.solvers.bounds import Bound, prove
from packing.solvers.effort import Effort
from packing.solvers.knapsack import Ints, completion_steps, completions
from packing.solvers.master import Floats, LinearSolution, Master
from packing.types import Histogram

_METHOD = "column generation"
_PRICE_SCALE = 2**40
_WORTHWHILE = 1 + 1e-9
_NARROWED = 0.6  # of the lengths


@dataclass(frozen=True, eq=False)
class Relaxed:
    """The relaxation of one demand: `bound` is proven; `optimal` unless a limit ended the generation of columns."""

    solution: LinearSolution
    bound: Bound
    optimal: bool


class Relaxation:
    """Solves the relaxation for a histogram, and then for what is left of it, with the packs found so far."""

    def __init__(self, histogram: Histogram, max_sequences_per_pack: int, packs: list[tuple[int, ...]]) -> None:
        """Start with those of `packs` that hold only lengths that occur."""
        self._max_sequences = max_sequences_per_pack
        counts = by_length(histogram)
        self._lengths = np.count_nonzero(counts)
        self._master = Master(counts)
        self._master.add(pack for pack in packs if counts[list(pack)].all())
        self._master.add(tuple(sorted(group.lengths)) for group in lpfhp.pack(histogram, max_sequences_per_pack))
        self._master.add(_simple_packs(counts, max_sequences_per_pack))

    @property
    def packs(self) -> list[tuple[int, ...]]:
        """The columns, in the order of `LinearSolution.uses`."""
        return self._master.packs

    def narrowed(self, demand: Histogram, uses: Floats) -> Relaxation:
        """A relaxation for `demand` alone, if that has far fewer lengths: its linear programs are much smaller.

        It starts with the packs in use (`uses` float64[packs]), their slots shortened to lengths that occur.
        """
        lengths = np.flatnonzero(by_length(demand))
        if len(lengths) > _NARROWED * self._lengths:
            return self
        shortened = np.concatenate(([0], lengths))[np.searchsorted(lengths, np.arange(len(demand.counts) + 1), "right")]
        used = (sorted(shortened[list(self.packs[column])].tolist()) for column in np.flatnonzero(uses > 0))
        return Relaxation(demand, self._max_sequences, [tuple(filter(None, pack)) for pack in used if any(pack)])

    def solve(
        self, demand: Histogram, effort: Effort, least: int = 0, most_rounds: int | None = None
    ) -> Relaxed | None:
        """Generate columns until the bound proven for `demand`, or `least`, is the optimum, rounded up.

        None if `effort` was spent before there was any solution.
        """
        counts = by_length(demand)
        self._master.demand(counts)
        relaxed: Relaxed | None = None
        rounds = 0
        while solution := self._master.solve(effort):
            rounds += 1
            prices = _integer_prices(solution.duals, counts)
            packs, values = _best_packs(prices, counts, self._max_sequences)
            effort.spend(completion_steps(prices, self._max_sequences))
            bound = _bound(demand, prices, values)
            if relaxed is not None:
                bound = max(relaxed.bound, bound, key=lambda candidate: candidate.packs)
            worth = packs[values > _PRICE_SCALE * _WORTHWHILE].tolist()
            proven = meets(max(bound.packs, least), solution) or not self._master.add(
                tuple(filter(None, pack)) for pack in worth
            )
            relaxed = Relaxed(solution, bound, proven)
            if proven or rounds == most_rounds:
                break
        return relaxed


def meets(packs: int, solution: LinearSolution) -> bool:
    """Whether no fractional solution can be better than a bound of `packs` already says."""
    return packs >= solution.objective * (1 - 1e-12) - 1e-6


def by_length(histogram: Histogram) -> Ints:
    """int64[L + 1], with 0 for length 0."""
    return np.array((0, *histogram.counts), dtype=np.int64)


def priced_bound(histogram: Histogram, prices: Floats, max_sequences_per_pack: int) -> Bound:
    """What prices prove: float64[L + 1] by length, in packs; they are rounded to integers first."""
    counts = by_length(histogram)
    rounded = _integer_prices(prices, counts)
    return _bound(histogram, rounded, _best_packs(rounded, counts, max_sequences_per_pack)[1])


def _integer_prices(prices: Floats, counts: Ints) -> Ints:
    rounded = np.rint(np.clip(prices, 0.0, 1.0) * _PRICE_SCALE).astype(np.int64)
    return np.where(counts > 0, rounded, 0)


def _best_packs(prices: Ints, counts: Ints, max_sequences_per_pack: int) -> tuple[Ints, Ints]:
    """For each length that occurs the most valuable pack that holds it (ascending, 0 for none), and its value."""
    lengths = np.flatnonzero(counts)
    space = len(counts) - 1 - lengths
    best = completions(prices, max_sequences_per_pack - 1)
    packs = np.hstack((lengths[:, None], best.lengths(space)))
    return np.sort(packs, axis=1), prices[lengths] + best.values[space]


def _bound(histogram: Histogram, prices: Ints, pack_values: Ints) -> Bound:
    """A longer sequence may cost as much as any shorter one without making any best pack worth more."""
    rising = np.maximum.accumulate(prices)[1:].tolist()
    return prove(histogram, rising, max(1, int(pack_values.max())), _METHOD)


def _simple_packs(counts: Ints, max_sequences_per_pack: int) -> list[tuple[int, ...]]:
    """For each length: alone, with the longest that fits beside it, and with K - 1 equal ones as long as fit."""
    capacity = len(counts) - 1
    longest = np.maximum.accumulate(np.where(counts > 0, np.arange(capacity + 1), 0))
    packs: list[tuple[int, ...]] = []
    for length in np.flatnonzero(counts).tolist():
        packs.append((length,))
        for others in sorted({1, max_sequences_per_pack - 1} - {0}):
            filler = int(longest[(capacity - length) // others])
            if filler and max_sequences_per_pack > 1:
                packs.append(tuple(sorted((length,) + (filler,) * others)))
    return packs
