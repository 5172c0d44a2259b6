"""Large buffers that a process uses again, as the first touch of fresh memory costs more than filling it.

Each thread of a process may borrow at the same time; what is given back goes to the next that asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from packing.sequences import SequenceBuffer

T = TypeVar("T")

_MOST_ARRAYS = 3

_buffers: list[SequenceBuffer] = []
_arrays: list[npt.NDArray[np.uint8]] = []


@contextmanager
def borrowed_buffer(rows: int = 0, content_bytes: int = 0) -> Iterator[SequenceBuffer]:
    """An empty buffer, with room for so much if that is known."""
    spare = _pop(_buffers)
    buffer = SequenceBuffer() if spare is None else spare
    buffer.clear()
    buffer.reserve(rows, content_bytes)
    try:
        yield buffer
    finally:
        _buffers[:] = [buffer]


@contextmanager
def borrowed_arrays(count: int, size: int) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """`count` arrays uint8[size], of any content."""
    spares = [_pop(_arrays) for _ in range(count)]
    found = [np.empty(size, np.uint8) if spare is None or len(spare) < size else spare for spare in spares]
    try:
        yield [array[:size] for array in found]
    finally:
        _arrays.extend(found)
        del _arrays[:-_MOST_ARRAYS]


def _pop(spares: list[T]) -> T | None:
    """The last of them; another thread may have been quicker."""
    try:
        return spares.pop()
    except IndexError:
        return None
