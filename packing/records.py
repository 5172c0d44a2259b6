"""From the content of a raw shard to its sequences: whole records by the fast path, those it leaves by the slow one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from packing.errors import ContentError, RecordError
from packing.example import read_sequence
from packing.reader import Chunk
from packing.sequences import SequenceBuffer
from packing.tfrecord import HEADER_BYTES, frame_size, payload_of

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Stop:
    """Where taking records came to: the number of the next record and the offset of its frame."""

    record: int
    offset: int


def take_records(
    shard: str,
    chunks: Iterator[Chunk],
    buffer: SequenceBuffer,
    on_bad: Callable[[RecordError], None],
    *,
    start: Stop = Stop(0, 0),
    segment_bytes: int = 2**62,
) -> Iterator[Stop]:
    """Add the sequence of every record to `buffer`; stop for the caller after each `segment_bytes`, and at the end.

    Between two stops are the records that lie wholly within `segment_bytes` (or one that is larger), however the
    content is cut into chunks. `on_bad` gets the error of a record that is no valid example, and raises it or lets the
    record be left out. Raises RecordError where no further record can be found.
    """
    at = first = start
    rest = np.empty(0, dtype=np.uint8)
    while (chunk := _next_chunk(shard, chunks, at)) is not None:
        window, position, origin = _join(rest, chunk)
        while True:
            taken = len(buffer)
            position = buffer.take(window, position, min(len(window), first.offset + segment_bytes - origin), origin)
            at = Stop(at.record + len(buffer) - taken, origin + position)
            size = _frame_size(shard, window, at, position)
            if size is not None and at != first and at.offset + size > first.offset + segment_bytes:
                first = at
                yield at
            elif size is None or position + size > len(window):
                break
            else:
                _take_slowly(shard, window[position : position + size], buffer, on_bad, at)
                position += size
                at = Stop(at.record + 1, origin + position)
        rest = window[position:].copy()
    if len(rest):
        raise _bad(shard, at, "a whole record", f"{len(rest)} bytes of one (the shard is cut off)")
    if at != first:
        yield at


def _next_chunk(shard: str, chunks: Iterator[Chunk], at: Stop) -> Chunk | None:
    try:
        return next(chunks, None)
    except ContentError as exc:
        raise _bad(shard, at, exc.expected, exc.found) from exc


def _join(rest: Bytes, chunk: Chunk) -> tuple[Bytes, int, int]:
    """A window that ends with the chunk, where in it `rest` and then the chunk begin, and the offset of its start."""
    if len(rest) <= chunk.headroom:
        begin = chunk.headroom - len(rest)
        chunk.buffer[begin : chunk.headroom] = rest
        return chunk.buffer, begin, chunk.offset - chunk.headroom
    return np.concatenate((rest, chunk.data)), 0, chunk.offset - len(rest)


def _frame_size(shard: str, window: Bytes, at: Stop, position: int) -> int | None:
    """Bytes of the frame at `position`; None if the window does not hold its header."""
    if len(window) - position < HEADER_BYTES:
        return None
    try:
        return frame_size(window[position : position + HEADER_BYTES].tobytes())
    except ContentError as exc:
        raise _bad(shard, at, exc.expected, exc.found) from exc


def _take_slowly(
    shard: str, frame: Bytes, buffer: SequenceBuffer, on_bad: Callable[[RecordError], None], at: Stop
) -> None:
    """The record of one whole frame, through protobuf objects, which also say what is wrong with it."""
    try:
        buffer.append(read_sequence(payload_of(frame.tobytes())), at.offset)
    except ContentError as exc:
        on_bad(_bad(shard, at, exc.expected, exc.found))


def _bad(shard: str, at: Stop, expected: str, found: str) -> RecordError:
    return RecordError(shard, record=at.record, offset=at.offset, expected=expected, found=found)
