"""Filling packs to the last token, many equal packs at once: near the token bound in milliseconds, at any L.

The longest sequence left starts a pack. It gets as many partners as packs hold on average, so that neither long
sequences nor the limit K are left for the end: first those lengths of which most are left, within a window around
the mean that is still needed, then the pair with the right sum of which most are left. As many packs of the kind are
made as the longest sequence and its partners last. Where nothing fits exactly, the longest that fit are taken.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from packing.solvers.knapsack import Ints
from packing.types import Histogram, Strategy


@dataclass(frozen=True)
class Setting:
    """`window`: least and greatest length of a partner, as multiples of the mean still needed.

    `share`: at most one part in `share` of a partner's sequences is used for one kind of pack.
    """

    window: tuple[float, float]
    share: int


SETTINGS = (Setting((0.0, 2.0), 1), Setting((0.3, 1.7), 1), Setting((0.5, 1.5), 3))


@dataclass(frozen=True)
class PartlyPacked:
    """`strategies` hold all but `rest`, which must fit `packs` more packs for the aim to be met."""

    strategies: list[Strategy]
    rest: Histogram
    packs: int


def fill_exactly(
    histogram: Histogram, max_sequences_per_pack: int, packs: int, last_packs: int, tolerance: int, setting: Setting
) -> PartlyPacked | None:
    """Aim at `packs` packs and stop before the last `last_packs` of them.

    None once it is clear that more than `tolerance` packs above the aim will be needed.
    """
    capacity = histogram.max_sequence_length
    counts = np.array((0, *histogram.counts), dtype=np.int64)
    sequences = histogram.sequences
    unused = (packs + tolerance) * capacity - histogram.tokens
    strategies: list[Strategy] = []
    longest = capacity
    while packs > last_packs and sequences:
        if unused < 0 or sequences > (packs + tolerance) * max_sequences_per_pack:
            return None
        while not counts[longest]:
            longest -= 1
        size = max(1, min(max_sequences_per_pack, round(sequences / packs)))
        pack = _pack_with(longest, counts, size, max_sequences_per_pack, setting)
        needs = Counter(pack)
        uses = min(
            max(1, int(counts[length]) // (number if length == longest else number * setting.share))
            for length, number in needs.items()
        )
        for length, number in needs.items():
            counts[length] -= uses * number
        strategies.append(Strategy(tuple(pack), uses))
        packs -= uses
        sequences -= uses * len(pack)
        unused -= uses * (capacity - sum(pack))
    return PartlyPacked(strategies, Histogram(tuple(counts[1:].tolist())), packs)


def _pack_with(longest: int, counts: Ints, size: int, max_sequences: int, setting: Setting) -> list[int]:
    """A pack with a sequence of `longest` and, if possible, `size` sequences and no token unused."""
    counts[longest] -= 1
    space = len(counts) - 1 - longest
    sizes = (*range(size, 0, -1), *range(size + 1, min(size + 4, max_sequences) + 1))
    found = (_partners(counts, space, wanted - 1, longest, setting.window) for wanted in sizes)
    partners = next((exact for exact in found if exact is not None), None)
    if partners is None:
        partners = _longest_that_fit(counts, space, max_sequences - 1)
    counts[longest] += 1
    return [longest, *partners]


def _partners(counts: Ints, space: int, number: int, longest: int, window: tuple[float, float]) -> list[int] | None:
    """`number` sequences of `space` tokens in sum, none longer than `longest`; None if none were found."""
    partners: list[int] = []
    while number > 2:
        low = max(1, int(space / number * window[0]))
        high = min(space - (number - 1), int(space / number * window[1]), longest)
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
