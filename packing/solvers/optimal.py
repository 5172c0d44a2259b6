"""The default solver: cutting stock on the histogram, with a proven lower bound.

Stops as soon as packs and bound meet: cheap bounds and a heuristic first, then the linear relaxation by column
generation, whose bound is proven in integers, then whole packs by diving.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from packing.solvers import lpfhp
from packing.solvers.bounds import Bound, cheap_bound
from packing.solvers.column_generation import Relaxation
from packing.solvers.diving import dive
from packing.types import Histogram, Strategy, merge_strategies


@dataclass(frozen=True)
class Found:
    """Strategies, not merged, with their bound; `complete` is False if the deadline ended the search."""

    strategies: list[Strategy]
    bound: Bound
    iterations: int
    complete: bool

    @property
    def packs(self) -> int:
        return sum(strategy.count for strategy in self.strategies)


def search(histogram: Histogram, max_sequences_per_pack: int, deadline: float) -> Found:
    """Pack every sequence; `deadline` is a `time.monotonic()` at which the best answer so far is returned."""
    bound = cheap_bound(histogram, max_sequences_per_pack)
    best = lpfhp.pack(histogram, max_sequences_per_pack)
    if _packs(best) == bound.packs:
        return Found(best, bound, 0, complete=True)
    start = [strategy.lengths for strategy in merge_strategies(best)]
    relaxation = Relaxation(histogram, max_sequences_per_pack, start)
    relaxed = relaxation.solve(histogram, deadline)
    bound = max(bound, relaxed.bound, key=lambda candidate: candidate.packs)
    for candidate in dive(
        relaxation, relaxed.solution, histogram, max_sequences_per_pack, bound.packs, deadline
    ):
        best = min(best, candidate, key=_packs)
        if _packs(best) == bound.packs:
            break
    complete = time.monotonic() < deadline or _packs(best) == bound.packs
    return Found(best, bound, relaxation.iterations, complete)


def _packs(strategies: list[Strategy]) -> int:
    return sum(strategy.count for strategy in strategies)
