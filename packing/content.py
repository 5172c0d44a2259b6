"""The uncompressed content of a raw shard, one chunk after the other: none, GZIP and ZLIB, told by its first bytes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Protocol

import numpy as np

from packing.ports import Storage
from packing.reader import Chunk, read_chunks
from packing.tfrecord import HEADER_BYTES, compression_of, inflate
from packing.types import RawShard

HEADROOM_BYTES = 1024 * 1024
CHUNK_BYTES = 8 * 1024 * 1024


class Hasher(Protocol):
    """What `hashlib` makes."""

    def update(self, data: memoryview, /) -> None: ...


def read_content(
    storage: Storage, shard: RawShard, *, start: int = 0, stop: int | None = None, hasher: Hasher | None = None
) -> Generator[Chunk]:
    """The content from `start` to `stop` (the end, if None); a chunk is valid until the next is asked for.

    Close it if it is not read to its end (see `read_chunks`).

    A `hasher` is fed with the stored bytes, of the whole shard, which then has to be read from start to end. To come to
    `start`, a compressed shard is read from its beginning. Raises ContentError if a compressed stream is damaged or
    cut off, ObjectChangedError if the object is no longer the listed one.
    """
    window = None
    if start or stop is not None:
        window = compression_of(storage.read(shard.uri, size=min(shard.size, HEADER_BYTES), etag=shard.etag))
    first, end = (start, shard.size if stop is None else stop) if window is None else (0, shard.size)
    chunks = _stored(storage, shard, first, end, hasher)
    if window is None and not start:
        head = next(chunks, None)
        if head is None:
            return
        window = compression_of(head.data[:HEADER_BYTES].tobytes())
        chunks = _put_back(head, chunks)
    if window is None:
        yield from chunks
    else:
        yield from _between(_inflate(chunks, window, shard.size), start, stop)


def _stored(storage: Storage, shard: RawShard, start: int, stop: int, hasher: Hasher | None) -> Iterator[Chunk]:
    """The object as it is stored, of the version that was listed."""
    options = {"chunk_bytes": CHUNK_BYTES, "headroom": HEADROOM_BYTES}
    for chunk in read_chunks(storage, shard.uri, start=start, stop=stop, etag=shard.etag, **options):
        if hasher:
            hasher.update(chunk.data.data)
        yield chunk


def _put_back(head: Chunk, rest: Iterator[Chunk]) -> Iterator[Chunk]:
    yield head
    yield from rest


def _inflate(chunks: Iterator[Chunk], window: int, size: int) -> Iterator[Chunk]:
    buffer = np.empty(HEADROOM_BYTES + CHUNK_BYTES, dtype=np.uint8)
    offset = 0
    for piece in inflate((chunk.data.tobytes() for chunk in chunks), window, size, CHUNK_BYTES):
        buffer[HEADROOM_BYTES : HEADROOM_BYTES + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
        yield Chunk(buffer[: HEADROOM_BYTES + len(piece)], HEADROOM_BYTES, offset)
        offset += len(piece)


def _between(chunks: Iterator[Chunk], start: int, stop: int | None) -> Iterator[Chunk]:
    """What the chunks hold of the bytes from `start` to `stop`."""
    for chunk in chunks:
        end = chunk.offset + len(chunk.data)
        skipped = max(start - chunk.offset, 0)
        cut = max(end - stop, 0) if stop is not None else 0
        if skipped + cut < len(chunk.data):
            kept = chunk.buffer[: len(chunk.buffer) - cut]
            yield Chunk(kept, chunk.headroom + skipped, chunk.offset + skipped)
        if stop is not None and end >= stop:
            return
