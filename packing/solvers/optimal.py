"""The default solver: cutting stock on the histogram, with a proven lower bound.

Ends as soon as packs and bound meet. In this order: bounds and heuristics that take milliseconds, the linear
relaxation, whose optimum rounded up is a bound that is nearly always reached, and whole packs by diving.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from packing.solvers import lpfhp
from packing.solvers.bounds import Bound, cheap_bound
from packing.solvers.diving import dive
from packing.solvers.exact_fill import SETTINGS, fill_exactly
from packing.solvers.merging import relax
from packing.solvers.tail import pack_tail
from packing.types import Histogram, Strategy

_MANY_LENGTHS = 1024
_GOOD_ENOUGH = 1e-5  # of all packs: with many lengths the linear program takes too long for what it can still save
_TAIL_PACKS, _TAIL_STEPS = 300, 20_000


@dataclass(frozen=True)
class Found:
    """Strategies, not merged, with their bound; `complete` is False if the deadline ended the search."""

    strategies: list[Strategy]
    bound: Bound
    iterations: int
    complete: bool


def search(histogram: Histogram, max_sequences_per_pack: int, deadline: float) -> Found:
    """Pack every sequence; `deadline` is a `time.monotonic()` at which the best answer so far is returned."""
    bound = cheap_bound(histogram, max_sequences_per_pack)
    lengths = sum(count > 0 for count in histogram.counts)
    accepted = bound.packs + int(bound.packs * _GOOD_ENOUGH) * (lengths > _MANY_LENGTHS)
    best = lpfhp.pack(histogram, max_sequences_per_pack)
    for candidate in _exact_fills(histogram, max_sequences_per_pack, bound.packs, accepted - bound.packs):
        best = min(best, candidate, key=_packs)
        if time.monotonic() >= deadline or _packs(best) <= accepted:
            break
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


def _exact_fills(histogram: Histogram, max_sequences: int, packs: int, tolerance: int) -> Iterator[list[Strategy]]:
    for setting in SETTINGS:
        partly = fill_exactly(histogram, max_sequences, packs, _TAIL_PACKS, tolerance, setting)
        if partly is not None:
            tail = pack_tail(partly.rest, max_sequences, partly.packs, _TAIL_STEPS)
            yield partly.strategies + (lpfhp.pack(partly.rest, max_sequences) if tail is None else tail)


def _packs(strategies: list[Strategy]) -> int:
    return sum(strategy.count for strategy in strategies)
