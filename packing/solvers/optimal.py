"""The default solver: cutting stock on the histogram, with a proven lower bound.

Ends as soon as packs and bound meet. In this order: bounds and heuristics that take milliseconds, the linear
relaxation, whose optimum rounded up is a bound that is nearly always reached, and whole packs by diving.

The work is bounded, by what there is to win. The linear program of some thousand lengths can run for minutes, and where
the heuristics are already a pack or two above the bound that would be spent on next to nothing, for each partition
anew. So the relaxation and the diving each get a number of steps (`effort`): the relaxation many while the answer is
further than two packs and 0.01 % above the bound, and few where it is nearer; the diving few once a single pack is left
to win. Steps count simplex iterations and pricing, never time, so the same histogram has the same answer on a slow
machine. What is found by then stands, with the bound proven so far.
"""

from __future__ import annotations

from dataclasses import dataclass

from packing.solvers import lpfhp
from packing.solvers.bounds import Bound, cheap_bound
from packing.solvers.diving import dive
from packing.solvers.effort import Effort
from packing.solvers.exact_fill import fill_exactly
from packing.solvers.merging import relax
from packing.solvers.tail import pack_tail
from packing.types import Histogram, Strategy

_MANY_LENGTHS = 1024
_GOOD_ENOUGH = 1e-5  # of all packs: with many lengths the linear program takes too long for what it can still save
_NEAR, _NEAR_PACKS = 1e-4, 2  # either is near
_FAR, _FAR_PACKS = 1e-2, 20  # beyond both, no other setting of the exact fill comes near
_RELAX_STEPS, _RELAX_STEPS_NEAR = 250_000_000, 50_000_000  # 10 ns each or less, see `effort`
_DIVE_STEPS, _LAST_PACK_STEPS_PER_LENGTH = 150_000_000, 16_000
_FILLS = ((100, 0.7), (30, 0.7), (300, 0.7), (100, 0.5), (100, 0.9))  # last packs, added to the mean size
_TAIL_STEPS = 10_000


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
    effort = Effort(deadline=deadline)
    bound = cheap_bound(histogram, max_sequences_per_pack)
    many = len(lengths) > _MANY_LENGTHS
    accepted = bound.packs + int(bound.packs * _GOOD_ENOUGH) * many
    best = lpfhp.pack(histogram, max_sequences_per_pack)
    for last_packs, above_mean in _FILLS if histogram.max_sequence_length > _MANY_LENGTHS else _FILLS[:1]:
        if _packs(best) <= accepted or effort.spent:
            break
        filled = _exact_fill(histogram, max_sequences_per_pack, bound.packs, _packs(best), last_packs, above_mean)
        best = min(best, filled or best, key=_packs)
        if not _within(best, bound, _FAR, _FAR_PACKS):
            break
    if effort.spent or _packs(best) <= accepted:
        return Found(best, bound, 0, complete=_packs(best) <= accepted)
    effort.steps = _RELAX_STEPS_NEAR if _within(best, bound, _NEAR, _NEAR_PACKS) else _RELAX_STEPS
    merged = relax(histogram, max_sequences_per_pack, bound, effort)
    if merged is not None:
        bound = merged.bound
        effort.steps = _DIVE_STEPS
        for candidate in dive(merged, histogram, max_sequences_per_pack, bound.packs, effort):
            best = min(best, candidate, key=_packs)
            if _packs(best) == bound.packs:
                break
            if _packs(best) == bound.packs + 1:
                effort.steps = min(effort.steps, _LAST_PACK_STEPS_PER_LENGTH * len(lengths))
    complete = _packs(best) == bound.packs or not effort.late
    return Found(best, bound, effort.solves, complete)


def _exact_fill(
    histogram: Histogram, max_sequences: int, packs: int, above: int, last_packs: int, above_mean: float
) -> list[Strategy] | None:
    """Aim at `packs` packs; None once it is clear that it will be `above` or more."""
    partly = fill_exactly(histogram, max_sequences, packs, last_packs, above - 1 - packs, above_mean)
    if partly is None:
        return None
    tail = pack_tail(partly.rest, max_sequences, partly.packs, _TAIL_STEPS)
    return partly.strategies + (lpfhp.pack(partly.rest, max_sequences) if tail is None else tail)


def _within(strategies: list[Strategy], bound: Bound, share: float, packs: int) -> bool:
    """Whether no more than `share` of all packs, or `packs`, are above the bound."""
    return _packs(strategies) - bound.packs <= max(packs, bound.packs * share)


def _packs(strategies: list[Strategy]) -> int:
    return sum(strategy.count for strategy in strategies)
