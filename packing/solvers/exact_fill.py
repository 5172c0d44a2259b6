"""Filling packs to the last token, many equal packs at once: near the token bound in milliseconds, at any L.

The longest sequence left starts a pack. A pack gets as many sequences as packs hold on average, or one more, so that
neither long sequences nor the limit K are left for the end: first lengths of which most are left, in a window around
the mean that is still needed, then the pair with the right sum of which most are left. As many packs of the kind are
made as these sequences last. Where nothing fits exactly, the longest that fit are taken.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from packing.solvers.knapsack import Ints
from packing.types import Histogram, Strategy

_WINDOW = (0.1, 1.9)  # the least and the greatest partner, as multiples of the mean still needed
_SIZES_ABOVE = 4


@dataclass(frozen=True)
class PartlyPacked:
    """`strategies` hold all but `rest`, which must fit `packs` more packs for the aim to be met."""

    strategies: list[Strategy]
    rest: Histogram
    packs: int


def fill_exactly(
    histogram: Histogram,
    max_sequences_per_pack: int,
    packs: int,
    last_packs: int,
    tolerance: int,
    above_mean: float = 0.7,
) -> PartlyPacked | None:
    """Aim at `packs` packs and stop before the last `last_packs` of them.

    None once it is clear that more than `tolerance` packs above the aim will be needed. `above_mean` is added to the
    mean number of sequences a pack before it is rounded down.
    """
    capacity = histogram.max_sequence_length
    counts = np.array((0, *histogram.counts), dtype=np.int64)
    sequences = histogram.sequences
    unused = (packs + tolerance) * capacity - histogram.tokens
    strategies: list[Strategy] = []
    longest = capacity
    while packs > last_packs and sequences:
        while not counts[longest]:
            longest -= 1
        size = min(int(sequences / packs + above_mean), max_sequences_per_pack)
        pack = _pack_with(longest, counts, max(1, size), max_sequences_per_pack)
        needs = Counter(pack)
        uses = min(int(counts[length]) // number for length, number in needs.items())
        for length, number in needs.items():
            counts[length] -= uses * number
        strategies.append(Strategy(tuple(pack), uses))
        packs -= uses
        sequences -= uses * len(pack)
        unused -= uses * (capacity - sum(pack))
        if unused < 0 or sequences > (packs + tolerance) * max_sequences_per_pack:
            return None
    return PartlyPacked(strategies, Histogram(tuple(counts[1:].tolist())), packs)


def _pack_with(longest: int, counts: Ints, size: int, max_sequences: int) -> list[int]:
    """A pack with a sequence of `longest` and, if possible, `size` sequences and no token unused."""
    counts[longest] -= 1
    space = len(counts) - 1 - longest
    sizes = (*range(size, 0, -1), *range(size + 1, min(size + _SIZES_ABOVE, max_sequences) + 1))
    found = (_partners(counts, space, wanted - 1, longest) for wanted in sizes)
    partners = next((exact for exact in found if exact is not None), None)
    if partners is None:
        partners = _longest_that_fit(counts, space, max_sequences - 1)
    counts[longest] += 1
    return [longest, *partners]


def _partners(counts: Ints, space: int, number: int, longest: int) -> list[int] | None:
    """`number` sequences of `space` tokens in sum, none longer than `longest`; None if none were found."""
    partners: list[int] = []
    while number > 2:
        low = max(1, int(space / number * _WINDOW[0]))
        high = min(space - (number - 1), int(space / number * _WINDOW[1]), longest)
        length = low + int(counts[low : high + 1].argmax()) if low <= high else 0
        if counts[length] <= 0:
            break
        counts[length] -= 1
        partners.append(length)
        space -= length
        number -= 1
    last = _last_partners(counts, space, number, longest)
    for length in partners:
        counts[length] += 1
    return None if last is None else partners + last


def _last_partners(counts: Ints, space: int, number: int, longest: int) -> list[int] | None:
    """The last two partners, one or none, `space` tokens in sum."""
    if number == 2 and 1 < space <= 2 * longest:
        low = max(1, space - longest)
        left = counts[low : space - low + 1]
        pairs = np.minimum(left, left[::-1])
        if space % 2 == 0:
            pairs[space // 2 - low] //= 2
        length = low + int(pairs.argmax())
        return [length, space - length] if pairs[length - low] else None
    if number == 1 and 0 < space <= longest and counts[space]:
        return [space]
    return [] if number == 0 and space == 0 else None


def _longest_that_fit(counts: Ints, space: int, most: int) -> list[int]:
    """Up to `most` partners, each the longest that still fits."""
    partners: list[int] = []
    while len(partners) < most and space:
        fitting = np.flatnonzero(counts[1 : space + 1])
        if not len(fitting):
            break
        length = int(fitting[-1]) + 1
        partners.append(length)
        counts[length] -= 1
        space -= length
    for length in partners:
        counts[length] += 1
    return partners
