"""The default solver: cutting stock on the histogram, with a proven lower bound.

Ends as soon as packs and bound meet. In this order: bounds and heuristics that take milliseconds, the linear
relaxation, whose optimum rounded up is a bound that is nearly always reached, and whole packs by diving.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from packing.solvers import lpfhp
from packing.solvers.bounds import Bound, cheap_bound
from packing.solvers.diving import dive
from packing.solvers.exact_fill import fill_exactly
from packing.solvers.merging import relax
from packing.solvers.tail import pack_tail
from packing.types import Histogram, Strategy

_MANY_LENGTHS = 1024
_GOOD_ENOUGH = 1e-5  # of all packs: with many lengths the linear program takes too long for what it can still save
_TAIL_PACKS, _TAIL_STEPS = 100, 10_000


@dataclass(frozen=True)
class Found:
    """Strategies, not merged, with their bound; `complete` is False if the deadline ended the search."""

    strategies: list[Strategy]
    bound: Bound
    iterations: int
    complete: bool


def search(histogram: Histogram, max_sequences_per_pack: int, deadline: float) -> Found:
    """Pack every sequence; `deadline` is a `time.monotonic()` at which the best answer so far is returned."""
    lengths = [length for length, count in enumerate(histogram.counts, start=1) if count]
    max_sequences_per_pack = min(max_sequences_per_pack, histogram.max_sequence_length // lengths[0])
    bound = cheap_bound(histogram, max_sequences_per_pack)
    accepted = bound.packs + int(bound.packs * _GOOD_ENOUGH) * (len(lengths) > _MANY_LENGTHS)
    best = lpfhp.pack(histogram, max_sequences_per_pack)
    if _packs(best) > accepted:
        filled = _exact_fill(histogram, max_sequences_per_pack, bound.packs, accepted - bound.packs)
        best = min(best, filled or best, key=_packs)
    if time.monotonic() >= deadline or _packs(best) <= accepted:
        return Found(best, bound, 0, complete=_packs(best) <= accepted)
    merged = relax(histogram, max_sequences_per_pack, deadline)
    if merged is None:
        return Found(best, bound, 0, complete=False)
    bound = max(bound, merged.bound, key=lambda candidate: candidate.packs)
    for candidate in dive(merged, histogram, max_sequences_per_pack, bound.packs, deadline):
        best = min(best, candidate, key=_packs)
        if _packs(best) == bound.packs:
            break
    complete = _packs(best) == bound.packs or time.monotonic() < deadline
    return Found(best, bound, merged.relaxation.iterations, complete)


def _exact_fill(histogram: Histogram, max_sequences: int, packs: int, tolerance: int) -> list[Strategy] | None:
    partly = fill_exactly(histogram, max_sequences, packs, _TAIL_PACKS, tolerance)
    if partly is None:
        return None
    tail = pack_tail(partly.rest, max_sequences, partly.packs, _TAIL_STEPS)
    return partly.strategies + (lpfhp.pack(partly.rest, max_sequences) if tail is None else tail)


def _packs(strategies: list[Strategy]) -> int:
    return sum(strategy.count for strategy in strategies)
