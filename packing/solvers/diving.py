"""From a fractional solution to whole packs: round down, search for a packing of the rest, relax the rest, repeat."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

from packing.solvers import lpfhp
from packing.solvers.filling import fill
from packing.solvers.master import Floats
from packing.solvers.merging import Merged
from packing.solvers.tail import pack_tail
from packing.types import Histogram, Strategy

_ROUNDS_PER_DIVE = 10
_NEARLY_ONE = 0.7
_TAIL_PACKS, _TAIL_STEPS = 400, 5000


def dive(
    merged: Merged, histogram: Histogram, max_sequences_per_pack: int, target: int, deadline: float
) -> Iterator[list[Strategy]]:
    """Solutions of `histogram`, one or two a round; ends when no later one can come down to `target` packs."""
    placed: list[Strategy] = []
    rest, solution = histogram, merged.relaxed.solution
    while True:
        rounded = _rounded(merged.relaxation.packs, solution.uses, merged.marks.merge(rest))
        filled, rest = fill(rounded, rest)
        placed += filled
        packs_left = target - sum(strategy.count for strategy in placed)
        yield placed + lpfhp.pack(rest, max_sequences_per_pack)
        if not rest.sequences or time.monotonic() >= deadline:
            return
        if packs_left <= _TAIL_PACKS:
            tail = pack_tail(rest, max_sequences_per_pack, packs_left, _TAIL_STEPS)
            if tail is not None:
                yield placed + tail
                return
        relaxed = merged.relaxation.solve(merged.marks.merge(rest), deadline, _ROUNDS_PER_DIVE)
        if relaxed is None or relaxed.bound.packs > packs_left:
            return
        solution = relaxed.solution


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
