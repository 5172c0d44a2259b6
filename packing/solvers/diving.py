"""From a fractional solution to whole packs: round down, pack the rest greedily, relax what is left, repeat."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

from packing.solvers import lpfhp
from packing.solvers.column_generation import Relaxation
from packing.solvers.filling import fill
from packing.solvers.master import Floats, LinearSolution
from packing.solvers.tail import pack_tail
from packing.types import Histogram, Strategy

_ROUNDS_PER_DIVE = 10
_NEARLY_ONE = 0.7
_TAIL_PACKS, _TAIL_STEPS = 400, 5000


def dive(
    relaxation: Relaxation,
    solution: LinearSolution,
    histogram: Histogram,
    max_sequences_per_pack: int,
    target: int,
    deadline: float,
) -> Iterator[list[Strategy]]:
    """Solutions of `histogram`, one a round; ends when no later one can come down to `target` packs."""
    placed: list[Strategy] = []
    rest = histogram
    while True:
        filled, rest = fill(_rounded(relaxation.packs, solution.uses, rest), rest)
        placed += filled
        yield placed + lpfhp.pack(rest, max_sequences_per_pack)
        room = target - sum(pack.count for pack in placed)
        tail = pack_tail(rest, max_sequences_per_pack, room, _TAIL_STEPS) if room <= _TAIL_PACKS else None
        if tail is not None:
            yield placed + tail
        if not rest.sequences or time.monotonic() >= deadline:
            return
        relaxed = relaxation.solve(rest, deadline, _ROUNDS_PER_DIVE)
        if sum(pack.count for pack in placed) + relaxed.bound.packs > target:
            return
        solution = relaxed.solution


def _rounded(packs: list[tuple[int, ...]], uses: Floats, demand: Histogram) -> list[Strategy]:
    """Every use rounded down; if all are below one, the largest are rounded up where they fit the demand."""
    whole = np.floor(uses + 1e-6)
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
