"""Reading a large object as chunks in order, while the next ones are being fetched.

Memory is bounded by `in_flight + 1` buffers, and they are used again, by later reads too: the first touch of fresh
memory costs more than filling it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from packing.ports import Storage

CHUNK_BYTES = 8 * 1024 * 1024
IN_FLIGHT = 4

_spare: list[NDArray[np.uint8]] = []
"""Buffers of reads that have ended, for the next one of this process."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """A part of an object: `buffer[headroom:]` is its bytes from `offset`, uint8, in a buffer that the reader lends.

    The first `headroom` bytes of the buffer are the consumer's, for what it has left of the chunk before.
    """

    buffer: NDArray[np.uint8]
    headroom: int
    offset: int

    @property
    def data(self) -> NDArray[np.uint8]:
        return self.buffer[self.headroom :]


def read_chunks(
    storage: Storage,
    uri: str,
    *,
    start: int,
    stop: int,
    etag: str | None,
    chunk_bytes: int = CHUNK_BYTES,
    in_flight: int = IN_FLIGHT,
    headroom: int = 0,
) -> Generator[Chunk]:
    """The bytes `start` to `stop` of the version `etag`, in order, in chunks of `chunk_bytes` of which the last may be
    shorter.

    At most `in_flight` chunks are being fetched or waiting. A chunk is valid until the next one is asked for or the
    generator is closed. Raises what `Storage.read_into` does, in place of the first chunk that could not be fetched;
    no thread is left when the generator has ended, in whatever way. Who may not read to the end closes it: left to the
    garbage collector, it could wait for its threads within one that is just starting, for ever.
    """
    count = len(range(start, stop, chunk_bytes))
    # The consumer has one chunk, so that slot of the ring is free which it had before.
    ring = _take_buffers(min(in_flight + 1, count), headroom + chunk_bytes)

    def fetch(number: int) -> Chunk:
        offset = start + number * chunk_bytes
        buffer = ring[number % len(ring)][: headroom + min(chunk_bytes, stop - offset)]
        storage.read_into(uri, buffer[headroom:], start=offset, etag=etag)
        return Chunk(buffer, headroom, offset)

    numbers = iter(range(count))
    try:
        with ThreadPoolExecutor(in_flight, thread_name_prefix="read") as pool:
            coming = deque(pool.submit(fetch, number) for number in islice(numbers, in_flight))
            while coming:
                chunk = coming.popleft().result()
                coming.extend(pool.submit(fetch, number) for number in islice(numbers, 1))
                yield chunk
    finally:
        _spare.extend(ring)
        del _spare[in_flight + 1 :]


def _take_buffers(count: int, size: int) -> list[NDArray[np.uint8]]:
    """Spare buffers of this size, made up by new ones; those of another size are dropped."""
    taken: list[NDArray[np.uint8]] = []
    while len(taken) < count:
        try:
            buffer = _spare.pop()
        except IndexError:
            buffer = np.empty(size, np.uint8)
        if len(buffer) == size:
            taken.append(buffer)
    return taken
