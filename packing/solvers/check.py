"""Independent checks of a solver's answer: the strategies against the histogram, the certificate against arithmetic.

Shares no code with the solvers or with `bounds`, so that a mistake there cannot hide itself here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.errors import VerificationError
from packing.types import Certificate, Histogram, Strategy


def check_strategies(histogram: Histogram, max_sequences_per_pack: int, strategies: Iterable[Strategy]) -> None:
    """Raise VerificationError unless the strategies hold every sequence exactly once in packs that are allowed."""
    capacity = histogram.max_sequence_length
    packed = [0] * capacity
    for strategy in strategies:
        lengths, count = strategy.lengths, strategy.count
        where = f"strategy {lengths} x {count}"
        if count < 1:
            raise VerificationError(f"{where}: expected a count of at least 1; the recipe is damaged, solve again")
        if not 1 <= len(lengths) <= max_sequences_per_pack:
            raise VerificationError(
                f"{where}: expected 1 to {max_sequences_per_pack} sequences a pack, found {len(lengths)}; solve again"
            )
        if min(lengths) < 1 or sum(lengths) > capacity:
            raise VerificationError(
                f"{where}: expected lengths of at least 1 with a sum of at most {capacity}, "
                f"found a shortest of {min(lengths)} and a sum of {sum(lengths)}; solve again"
            )
        for length in lengths:
            packed[length - 1] += count
    for length, (expected, found) in enumerate(zip(histogram.counts, packed, strict=True), start=1):
        if expected != found:
            raise VerificationError(
                f"length {length}: expected {expected} sequences as in the histogram, found {found} in the strategies; "
                "solve again"
            )


def check_certificate(histogram: Histogram, max_sequences_per_pack: int, certificate: Certificate) -> int:
    """The lower bound that `certificate` proves for `histogram`, in integers throughout.

    Weak duality: if no pack is worth more than V, then packs that together hold goods worth W number at least W / V.
    Raises VerificationError if a pack of at most K sequences and L tokens is worth more than `best_pack_value`.
    """
    prices, claimed = certificate.prices, certificate.best_pack_value
    if len(prices) != histogram.max_sequence_length or min(prices) < 0 or claimed < 1:
        raise VerificationError(
            f"certificate: expected {histogram.max_sequence_length} prices of at least 0 and a best_pack_value of at "
            f"least 1, found {len(prices)} prices, the lowest {min(prices, default=None)}, and {claimed}; solve again"
        )
    found = _most_valuable_pack(prices, max_sequences_per_pack)
    if found > claimed:
        raise VerificationError(
            f"certificate: expected no pack worth more than best_pack_value {claimed}, found one worth {found}; "
            "the bound is not proven, solve again"
        )
    worth = sum(count * price for count, price in zip(histogram.counts, prices, strict=True))
    return -(-worth // claimed)


def _most_valuable_pack(prices: tuple[int, ...], max_sequences_per_pack: int) -> int:
    """The value of the best pack, by dynamic programming over tokens with repeated doubling over sequences.

    `best[c]` for at most j sequences and c tokens; the best of i + j sequences splits c into the best of i and of j.
    """
    capacity = len(prices)
    limit = min(max_sequences_per_pack, capacity)
    exact = np.int64 if max(prices) * limit < 2**63 else object
    one = np.maximum.accumulate(np.array((0, *prices), dtype=exact))
    best, sequences = one, 1
    for bit in bin(limit)[3:]:
        doubled = _join(best, best)
        if (doubled == best).all():
            break
        best, sequences = doubled, 2 * sequences
        if bit == "1":
            best, sequences = _join(best, one), sequences + 1
    return int(best[capacity])


def _join(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`joined[c]` is the maximum of `left[c - s] + right[s]` over 0 <= s <= c, for non-decreasing arrays."""
    joined = left.copy()
    for s in np.flatnonzero(right[1:] > right[:-1]) + 1:
        np.maximum(joined[s:], left[: len(left) - s] + right[s], out=joined[s:])
    return joined
