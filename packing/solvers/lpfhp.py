"""Longest-pack-first histogram packing (Krell et al., arXiv 2107.02027): best-fit decreasing, in bulk.

As shortest-pack-first, but each sequence goes into the open pack with the least space that still takes it. The pack
that just took one is then again the best fit for the next of the same length, so it takes as many as it can.
"""

from __future__ import annotations

from packing.solvers.open_packs import OpenPacks
from packing.types import Histogram, Strategy


def pack(histogram: Histogram, max_sequences_per_pack: int) -> list[Strategy]:
    """Strategies that hold every sequence exactly once; not merged."""
    packs = OpenPacks(histogram.max_sequence_length, max_sequences_per_pack)
    for length in range(histogram.max_sequence_length, 0, -1):
        left = histogram.counts[length - 1]
        while left:
            left -= packs.place(packs.least_space(length), length, left, most_repeats=max_sequences_per_pack)
    return packs.strategies()
