"""Shortest-pack-first histogram packing (Krell et al., arXiv 2107.02027): worst-fit decreasing, in bulk.

Lengths are taken from the longest to the shortest. Each sequence goes into the open pack with the most space left;
all packs of a kind are served at once, so the time depends on the number of lengths, not of sequences.
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
            left -= packs.place(packs.most_space(length), length, left, most_repeats=1)
    return packs.strategies()
