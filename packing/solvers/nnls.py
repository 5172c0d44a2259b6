"""Non-negative least squares histogram packing (Krell et al., arXiv 2107.02027).

All strategies that fill a pack exactly are the columns of a matrix A (how often each length occurs in each), and
x >= 0 minimises ||w (A x - counts)||. Rounded, x says how often to use each strategy. Slots without a sequence of
their length take a shorter one or stay empty; sequences without a slot are packed longest-pack-first.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from packing.errors import UsageError
from packing.solvers import lpfhp
from packing.solvers.filling import fill
from packing.types import Histogram, Strategy

MOST_MATRIX_ENTRIES = 2**25
_SHORT_LENGTHS, _SHORT_WEIGHT = 8, 0.09  # as published: misses among the shortest lengths cost little


def pack(histogram: Histogram, max_sequences_per_pack: int) -> list[Strategy]:
    """Strategies that hold every sequence exactly once; not merged.

    Raises UsageError where the matrix of all strategies would have more than `MOST_MATRIX_ENTRIES` entries, which
    for K > 3 is soon the case, and where the iteration does not converge.
    """
    from scipy.optimize import nnls

    capacity = histogram.max_sequence_length
    full_packs = _full_packs(capacity, max_sequences_per_pack)
    matrix = np.zeros((capacity, len(full_packs)))
    for column, lengths in enumerate(full_packs):
        for length in lengths:
            matrix[length - 1, column] += 1
    weights = np.ones(capacity)
    weights[:_SHORT_LENGTHS] = _SHORT_WEIGHT
    counts = np.array(histogram.counts, dtype=np.float64)
    scale = counts.max()
    matrix *= weights[:, None]
    try:
        uses, _ = nnls(matrix, counts * weights / scale)
    except RuntimeError as exc:
        raise UsageError(f"solver nnls: least squares did not converge ({exc}); use the solver optimal") from exc
    rounded = [Strategy(lengths, round(float(use))) for lengths, use in zip(full_packs, uses * scale, strict=True)]
    filled, missing = fill((strategy for strategy in rounded if strategy.count), histogram)
    return filled + lpfhp.pack(missing, max_sequences_per_pack)


def _full_packs(capacity: int, max_sequences: int) -> list[tuple[int, ...]]:
    """Every multiset of at most `max_sequences` lengths with the sum `capacity`."""
    most = MOST_MATRIX_ENTRIES // capacity
    packs = list(islice(_partitions(capacity, max_sequences, 1), most + 1))
    if len(packs) > most:
        raise UsageError(
            f"solver nnls: expected at most {most} strategies of up to {max_sequences} lengths that sum to {capacity}, "
            "found more than least squares can take; lower max_sequences_per_pack or use the solver optimal"
        )
    return packs


def _partitions(total: int, most_parts: int, least: int) -> Iterator[tuple[int, ...]]:
    """The ways to write `total` as an ascending sum of 1 to `most_parts` numbers of at least `least`."""
    if most_parts > 1:
        for first in range(least, total // 2 + 1):
            for rest in _partitions(total - first, most_parts - 1, first):
                yield (first, *rest)
    yield (total,)
