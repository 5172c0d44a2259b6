"""Digests by which sequences are known again in whichever pack they are, and how two collections of them differ."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from packing.example import RawSequence

Digests = npt.NDArray[np.uint64]
"""128-bit digests of sequences, uint64[n, 2]."""


def sequence_digest(sequence: RawSequence) -> bytes:
    """128-bit BLAKE2 of a sequence's content, independent of where in which pack it stands."""
    parts = (sequence.tokens, sequence.segments, sequence.masked_positions, sequence.masked_ids)
    hasher = hashlib.blake2b(digest_size=16)
    for values in (np.array([len(parts[0]), len(parts[2]), sequence.label]), *parts):
        hasher.update(values.astype("<i8").tobytes())
    return hasher.digest()


def as_digests(digests: Sequence[bytes]) -> Digests:
    """One row for each digest."""
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class Difference:
    """How two collections of sequences differ, each counted as often as it occurs.

    `missing` and `extra` are how many too few and too many were found. `scarce` bool[n]: which rows of the expected
    ones were found too rarely; `abundant` bool[m]: which of those found were found too often.
    """

    missing: int
    extra: int
    scarce: npt.NDArray[np.bool_]
    abundant: npt.NDArray[np.bool_]


def compare(expected: Digests, found: Digests) -> Difference:
    """Expected sequences, n digests, against those found, m digests; in any order."""
    rows = np.concatenate((expected, found))
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    group = np.empty(len(rows), dtype=np.int64)
    group[order] = np.cumsum(first) - 1
    sizes = np.bincount(group)
    lacking = np.bincount(group[: len(expected)], minlength=len(sizes)) * 2 - sizes
    return Difference(
        missing=int(lacking[lacking > 0].sum()),
        extra=int(-lacking[lacking < 0].sum()),
        scarce=lacking[group[: len(expected)]] > 0,
        abundant=lacking[group[len(expected) :]] < 0,
    )
