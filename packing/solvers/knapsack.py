"""The most valuable packs of at most K sequences and L tokens, by exact integer dynamic programming.

The best of k sequences splits the tokens between the best of k // 2 and the best of the others, a max-plus
convolution of L^2 / 2 steps, so K sequences take about 2 log2(K) of them. Where few lengths have a price, adding one
sequence after the other is less work. Given duals as prices this prices the
columns of the cutting-stock linear program, and the same values prove the bound: one computation for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

MAX_PACK_VALUE = 2**61
_NOTHING = -(2**61)
_ROWS_AT_ONCE = 32
_MOST_ONE_BY_ONE = 64  # sequences
_STEPS, _STEPS_ONE_BY_ONE = 1 / 16, 0.3  # of `Effort`, for each split tried


@dataclass(frozen=True, eq=False)
class Completions:
    """`values[c]`: the best value of at most `sequences` sequences in c tokens, 0 <= c <= L.

    `split[c]` tokens go to the second of `halves`; for a single sequence, its length (0 for none).
    """

    sequences: int
    values: Ints
    split: Ints
    halves: tuple[Completions, Completions] | None = None

    def lengths(self, tokens: Ints) -> Ints:
        """The packs behind `values[tokens]`: int64[len(tokens), at most `sequences`], 0 where nothing is placed."""
        split = self.split[tokens]
        if self.halves is None:
            return split[:, None]
        first, second = self.halves
        return np.hstack((first.lengths(tokens - split), second.lengths(split)))


def completions(prices: Ints, max_sequences: int) -> Completions:
    """The best completions by at most `max_sequences` sequences; `prices` int64[L + 1] by length, `prices[0]` = 0.

    A length with price 0 is never used. Prices must be such that no pack is worth `MAX_PACK_VALUE` or more.
    """
    tokens = len(prices)
    values = np.maximum.accumulate(prices)
    rises = np.flatnonzero(values[1:] > values[:-1]) + 1
    single = np.zeros(tokens, dtype=np.int64)
    single[rises] = rises
    known = {
        0: Completions(0, np.zeros(tokens, dtype=np.int64), np.zeros(tokens, dtype=np.int64)),
        1: Completions(1, values, np.maximum.accumulate(single)),
    }
    if _steps_one_by_one(len(rises), tokens, max_sequences) < _steps_by_halves(tokens, max_sequences):
        return _one_by_one(max_sequences, known, rises)
    return _at_most(max_sequences, known)


def completion_steps(prices: Ints, max_sequences: int) -> float:
    """The work of `completions` as steps of `Effort`."""
    tokens = len(prices)
    rises = int(np.count_nonzero(np.diff(np.maximum.accumulate(prices))))
    one_by_one = _steps_one_by_one(rises, tokens, max_sequences)
    return min(one_by_one, _steps_by_halves(tokens, max_sequences))


def _steps_one_by_one(lengths: int, tokens: int, max_sequences: int) -> float:
    return _STEPS_ONE_BY_ONE * max_sequences * lengths * tokens if max_sequences <= _MOST_ONE_BY_ONE else math.inf


def _steps_by_halves(tokens: int, max_sequences: int) -> float:
    return _STEPS * max_sequences.bit_length() * tokens * tokens


def _one_by_one(max_sequences: int, known: dict[int, Completions], rises: Ints) -> Completions:
    """As `_at_most`; only the lengths in `rises` are worth adding to a pack."""
    best, one = known[min(max_sequences, 1)], known[1]
    for _ in range(max_sequences - 1):
        values, split = best.values.copy(), np.zeros_like(best.values)
        for length in rises.tolist():
            longer = best.values[:-length] + one.values[length]
            better = longer > values[length:]
            np.copyto(values[length:], longer, where=better)
            np.copyto(split[length:], length, where=better)
        if np.array_equal(values, best.values):
            break
        best = Completions(best.sequences + 1, values, split, (best, one))
    return best


def _at_most(sequences: int, known: dict[int, Completions]) -> Completions:
    """By halves: each number of sequences that is needed is joined once and kept in `known`."""
    if sequences not in known:
        first = _at_most(sequences // 2, known)
        second = _at_most(sequences - sequences // 2, known)
        joined = _join(first, second)
        # As many sequences as `second` holds are enough: nothing is gained by this many, so not by more.
        known[sequences] = second if np.array_equal(joined.values, second.values) else joined
    return known[sequences]


def _join(first: Completions, second: Completions) -> Completions:
    """Split every number of tokens in the best way; rows are taken in blocks that stay in the processor's cache."""
    tokens = len(first.values)
    padded = np.concatenate((np.full(tokens, _NOTHING), first.values))
    values, split = np.empty_like(first.values), np.empty_like(first.values)
    stride = padded.strides[0]
    for low in range(0, tokens, _ROWS_AT_ONCE):
        high = min(low + _ROWS_AT_ONCE, tokens)
        # remaining[i, s] = first.values[low + i - s], or _NOTHING where s exceeds low + i
        remaining = np.lib.stride_tricks.as_strided(
            padded[tokens + low :], shape=(high - low, high), strides=(stride, -stride), writeable=False
        )
        joined = remaining + second.values[:high]
        split[low:high] = joined.argmax(axis=1)
        values[low:high] = joined[np.arange(high - low), split[low:high]]
    return Completions(first.sequences + second.sequences, values, split, (first, second))
