"""Exhaustive answers for tiny histograms, and the hypothesis strategies that draw them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from hypothesis import strategies as st

from packing.types import Histogram

tiny_histograms = st.lists(st.integers(0, 3), min_size=1, max_size=10).filter(any).map(lambda c: Histogram(tuple(c)))
small_histograms = st.lists(st.integers(0, 60), min_size=1, max_size=40).filter(any).map(lambda c: Histogram(tuple(c)))
max_sequences = st.integers(1, 6)


def packs_with(counts: tuple[int, ...], length: int, tokens: int, sequences: int) -> Iterator[tuple[int, ...]]:
    """What can be left of `counts` once up to `sequences` sequences of at most `length` share `tokens` tokens."""
    yield counts
    if sequences == 0:
        return
    for other in range(1, min(length, tokens) + 1):
        if counts[other - 1]:
            left = tuple(count - (i == other) for i, count in enumerate(counts, start=1))
            yield from packs_with(left, other, tokens - other, sequences - 1)


@cache
def fewest_packs(counts: tuple[int, ...], max_sequences_per_pack: int) -> int:
    """The true minimum: the longest sequence left goes into some pack; try all of them."""
    if not any(counts):
        return 0
    longest = max(length for length, count in enumerate(counts, start=1) if count)
    rest = tuple(count - (i == longest) for i, count in enumerate(counts, start=1))
    lefts = set(packs_with(rest, longest, len(counts) - longest, max_sequences_per_pack - 1))
    return 1 + min(fewest_packs(left, max_sequences_per_pack) for left in lefts)


def most_valuable_pack(prices: tuple[int, ...], max_sequences_per_pack: int) -> int:
    """The value of the best pack, by trying every pack."""

    def best(length: int, tokens: int, sequences: int) -> int:
        choices = range(1, min(length, tokens) + 1) if sequences else ()
        return max((prices[i - 1] + best(i, tokens - i, sequences - 1) for i in choices), default=0)

    return best(len(prices), len(prices), max_sequences_per_pack)
