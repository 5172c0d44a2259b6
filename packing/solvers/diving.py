"""From a fractional solution to whole packs: round down, search for a packing of the rest, relax the rest, repeat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np

from packing.solvers import lpfhp
from packing.solvers.effort import Effort
from packing.solvers.filling import fill
from packing.solvers.master import Floats
from packing.solvers.merging import Merged
from packing.solvers.tail import pack_tail
from packing.types import Histogram, Strategy

_ROUNDS_PER_DIVE = 10
_NEARLY_ONE = 0.7
_TAIL_PACKS, _TAIL_STEPS = 400, 2500
_TAIL_AGAIN = 0.9  # of the packs that the last search for a packing of the rest had


def dive(
    merged: Merged, histogram: Histogram, max_sequences_per_pack: int, target: int, effort: Effort
) -> Iterator[list[Strategy]]:
    """Solutions of `histogram`, one or two a round; ends when no later one can be better, or at `target` packs."""
    placed: list[Strategy] = []
    rest, relaxation, solution = histogram, merged.relaxation, merged.relaxed.solution
    tail_packs, fewest = _TAIL_PACKS, math.inf
    while True:
        filled, rest = fill(_rounded(relaxation.packs, solution.uses, merged.marks.merge(rest)), rest)
        placed += filled
        packs_placed = sum(strategy.count for strategy in placed)
        last = lpfhp.pack(rest, max_sequences_per_pack)
        fewest = min(fewest, packs_placed + sum(strategy.count for strategy in last))
        yield placed + last
        if not rest.sequences or effort.spent:
            return
        packs_left = target - packs_placed
        if packs_left <= tail_packs:
            tail_packs = int(packs_left * _TAIL_AGAIN)
            tail = pack_tail(rest, max_sequences_per_pack, packs_left, _TAIL_STEPS)
            if tail is not None:
                yield placed + tail
                return
        demand = merged.marks.merge(rest)
        relaxation = relaxation.narrowed(demand, solution.uses)
        relaxed = relaxation.solve(demand, effort, most_rounds=_ROUNDS_PER_DIVE)
        if relaxed is None:
            return
        solution = relaxed.solution
        target = max(target, packs_placed + relaxed.bound.packs)
        if target >= fewest:
            return


def _rounded(packs: list[tuple[int, ...]], uses: Floats, demand: Histogram) -> list[Strategy]:
    """Every use rounded down; if all are below one, the largest are rounded up where they fit the demand."""
    whole = np.floor(uses * (1 - 1e-12) + 1e-6)
    if whole.any():
        return [Strategy(packs[column], int(whole[column])) for column in np.flatnonzero(whole)]
    left = Counter({length: count for length, count in enumerate(demand.counts, start=1) if count})
    chosen: list[Strategy] = []
    for column in np.argsort(-uses, kind="stable"):
        if chosen and uses[column] < _NEARLY_ONE:
            break
        needs = Counter(packs[column])
        if needs <= left or not chosen:
            left -= needs
            chosen.append(Strategy(packs[column], 1))
    return chosen
