"""Lower bounds on the number of packs, each as a certificate: integer prices and the value of the best pack.

Every bound rests on weak duality of the cutting-stock linear program (Gilmore and Gomory, 1961). Give a sequence of
length l the price p(l) >= 0 and let V be at least the value of any pack of at most K sequences and L tokens. The
packs of a solution are together worth W = sum over all sequences of p(l), and each is worth at most V, so there are
at least ceil(W / V) of them. The choice of prices decides how strong the bound is, never whether it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packing.types import Certificate, Histogram


@dataclass(frozen=True)
class Bound:
    """A proven minimum number of packs, its proof and the name of the method that found it."""

    packs: int
    certificate: Certificate
    method: str


def prove(histogram: Histogram, prices: Sequence[int], best_pack_value: int, method: str) -> Bound:
    """The bound of a certificate, summed in Python integers."""
    worth = sum(count * price for count, price in zip(histogram.counts, prices, strict=True))
    return Bound(-(-worth // best_pack_value), Certificate(tuple(prices), best_pack_value), method)


def token_bound(histogram: Histogram) -> Bound:
    """Price = length: a pack is worth the tokens it holds, so V = L and the bound is ceil(tokens / L)."""
    capacity = histogram.max_sequence_length
    return prove(histogram, range(1, capacity + 1), capacity, "tokens")


def sequence_bound(histogram: Histogram, max_sequences_per_pack: int) -> Bound:
    """Price = 1 for lengths that are not shorter than the shortest, s, that occurs: the bound is ceil(sequences / V).

    A pack is worth the number of its sequences of at least s tokens: at most K of them, and at most L // s.
    """
    capacity = histogram.max_sequence_length
    shortest = next(length for length, count in enumerate(histogram.counts, start=1) if count)
    prices = [int(length >= shortest) for length in range(1, capacity + 1)]
    return prove(histogram, prices, min(max_sequences_per_pack, capacity // shortest), "sequences")


def long_sequence_bound(histogram: Histogram) -> Bound:
    """The bound L2 of Martello and Toth (1990): for a threshold t <= (L + 1) / 2, price L above L - t, l in t..L - t, else 0.

    V = L. If a pack holds a sequence above L - t, fewer than t tokens are left, and whatever fits there has price 0;
    if not, it is worth at most its tokens. The best of all thresholds, found with a running sum.
    """
    counts, capacity = histogram.counts, histogram.max_sequence_length
    worth = best_worth = histogram.tokens
    best_threshold = 1
    for threshold in range(2, (capacity + 1) // 2 + 1):
        newly_long, newly_short = capacity - threshold + 1, threshold - 1
        worth += counts[newly_long - 1] * (capacity - newly_long) - counts[newly_short - 1] * newly_short
        if worth > best_worth:
            best_worth, best_threshold = worth, threshold
    prices = [
        capacity if length > capacity - best_threshold else length if length >= best_threshold else 0
        for length in range(1, capacity + 1)
    ]
    return prove(histogram, prices, capacity, "long sequences")


def cheap_bound(histogram: Histogram, max_sequences_per_pack: int) -> Bound:
    """The strongest of the bounds that need no linear program; on a tie the first."""
    bounds = (token_bound(histogram), sequence_bound(histogram, max_sequences_per_pack), long_sequence_bound(histogram))
    return max(bounds, key=lambda bound: bound.packs)
