"""Our own integer random numbers, so that a seed means the same order under every version of NumPy.

SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) turns a counter into
64 random bits; a permutation is the stable sort order of such keys.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permutation(size: int, *stream: object) -> npt.NDArray[np.int64]:
    """A random order of 0..size-1, int64[size]; `stream` (seed, purpose, ...) names the random stream."""
    start = int.from_bytes(hashlib.sha256(repr(stream).encode()).digest()[:8], "big")
    counter = np.uint64(start) + np.arange(1, size + 1, dtype=np.uint64) * _GOLDEN
    return np.argsort(_mix(counter), kind="stable").astype(np.int64)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
