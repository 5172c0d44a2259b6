"""Putting the sequences of a histogram into given packs: what turns a rounded linear solution into strategies."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from packing.types import Histogram, Strategy


def fill(packs: Iterable[Strategy], histogram: Histogram) -> tuple[list[Strategy], Histogram]:
    """Use each of `packs` as slots for sequences of at most the slots' lengths; packs left empty are dropped.

    From the longest length to the shortest, sequences go into slots of their own length first and then into the
    shortest longer ones, so no other use of the slots places more sequences. Returns the filled packs, not merged,
    and what found no slot.
    """
    kinds = list(packs)
    slots: list[list[tuple[int, int]]] = [[] for _ in range(histogram.max_sequence_length + 1)]
    for kind, pack in enumerate(kinds):
        for slot, length in enumerate(pack.lengths):
            slots[length].append((kind, slot))
    runs: list[list[deque[Strategy]]] = [[deque() for _ in pack.lengths] for pack in kinds]
    free: list[tuple[int, int, int]] = []
    missing = [0] * histogram.max_sequence_length
    for length in range(histogram.max_sequence_length, 0, -1):
        free.extend((kind, slot, kinds[kind].count) for kind, slot in slots[length])
        left = histogram.counts[length - 1]
        while left and free:
            kind, slot, count = free.pop()
            used = min(left, count)
            left -= used
            if used < count:
                free.append((kind, slot, count - used))
            runs[kind][slot].append(Strategy((length,), used))
        missing[length - 1] = left
    filled = [strategy for pack_runs in runs for strategy in _zip_runs(pack_runs)]
    return filled, Histogram(tuple(missing))


def _zip_runs(runs: list[deque[Strategy]]) -> Iterable[Strategy]:
    """Packs from each slot's runs of equal lengths, taken side by side until every slot is used up."""
    while any(runs):
        heads = [run[0] for run in runs if run]
        count = min(head.count for head in heads)
        yield Strategy(tuple(length for head in heads for length in head.lengths), count)
        for run in runs:
            if run:
                head = run.popleft()
                if head.count > count:
                    run.appendleft(Strategy(head.lengths, head.count - count))
