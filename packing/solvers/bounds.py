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


def with_long_sequences(histogram: Histogram, bound: Bound) -> Bound:
    """Raise a bound as L2 of Martello and Toth (1990) raises the token bound; here for any prices.

    For a threshold t <= (L + 1) / 2, sequences above L - t get the price V and sequences below t the price 0. No pack
    is worth more than V: next to a sequence above L - t, of which a pack holds one at most, fewer than t tokens are
    left, and what fits there has price 0; without one, the pack is worth at most what it was. The best of all
    thresholds, found with a running sum; t = 1 only says that a sequence of L tokens is alone.
    """
    counts, capacity = histogram.counts, histogram.max_sequence_length
    prices, best = bound.certificate.prices, bound.certificate.best_pack_value
    worth = highest = sum(count * price for count, price in zip(counts, prices, strict=True))
    chosen = 0
    for threshold in range(1, (capacity + 1) // 2 + 1):
        newly_long, newly_short = capacity - threshold, threshold - 2
        worth += counts[newly_long] * (best - prices[newly_long])
        worth -= counts[newly_short] * prices[newly_short] if threshold > 1 else 0
        if worth > highest:
            highest, chosen = worth, threshold
    if chosen == 0:
        return bound
    raised = [
        best if length > capacity - chosen else 0 if length < chosen else price
        for length, price in enumerate(prices, start=1)
    ]
    return prove(histogram, raised, best, f"{bound.method}, long sequences")


def cheap_bound(histogram: Histogram, max_sequences_per_pack: int) -> Bound:
    """The strongest of the bounds that need no linear program; on a tie the first."""
    plain = (token_bound(histogram), sequence_bound(histogram, max_sequences_per_pack))
    return max((with_long_sequences(histogram, bound) for bound in plain), key=lambda bound: bound.packs)
