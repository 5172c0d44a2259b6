"""Raw sequences in the form in which packs are put together: without padding, still as bytes of the wire format.

One sequence's content is four pieces, one after the other: its token ids as canonical varints, its segment ids as one
byte each, its masked ids as canonical varints, its masked positions as little-endian uint16. A sequence of more than
65,536 tokens keeps the low 16 bits of its positions: no parameters allow a slot that long, so it is never packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.compiled import read_only
from packing.crc32c import crc32c_address
from packing.example import RawSequence
from packing.wire import take_records

Array = npt.NDArray[Any]

ROW_TYPES: Mapping[str, type[np.generic]] = {
    "starts": np.int64,
    "offsets": np.int64,
    "lengths": np.int32,
    "token_bytes": np.int32,
    "masked": np.int32,
    "masked_id_bytes": np.int32,
    "labels": np.uint8,
}
"""The arrays of `Sequences` that have one entry per sequence, in order."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """n raw sequences, one row each, and the bytes that the rows speak of.

    `content` uint8[bytes]; `starts` int64[n]: where in it the sequence begins; `offsets` int64[n]: byte offset of its
    record's frame in the uncompressed shard; `lengths` int32[n]: tokens; `token_bytes` int32[n]: bytes of the token
    ids; `masked` int32[n]: masked tokens; `masked_id_bytes` int32[n]: bytes of the masked ids; `labels` uint8[n].
    """

    content: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    token_bytes: npt.NDArray[np.int32]
    masked: npt.NDArray[np.int32]
    masked_id_bytes: npt.NDArray[np.int32]
    labels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.starts)

    def sequence(self, row: int) -> RawSequence:
        """The sequence of one row, decoded."""
        sizes = (self.token_bytes[row], self.lengths[row], self.masked_id_bytes[row], 2 * self.masked[row])
        ends = int(self.starts[row]) + np.cumsum(sizes, dtype=np.int64)
        tokens, segments, masked_ids, positions = np.split(self.content[: ends[-1]], [self.starts[row], *ends[:-1]])[1:]
        return RawSequence(
            tokens=decode_varints(tokens),
            segments=segments.astype(np.int64),
            masked_positions=np.frombuffer(positions.tobytes(), "<u2").astype(np.int64),
            masked_ids=decode_varints(masked_ids),
            label=int(self.labels[row]),
        )


class SequenceBuffer:
    """Sequences that are appended one after the other, in arrays that double when they are full.

    It starts with room for `rows` sequences and `content_bytes` of content. `clear` keeps the memory, so a buffer that
    is used again need not grow again. For one thread at a time.
    """

    def __init__(self, rows: int = 1024, content_bytes: int = 1 << 20) -> None:
        self._count = self._used = 0
        self._content = np.empty(content_bytes, np.uint8)
        self._rows = {name: np.empty(rows, dtype) for name, dtype in ROW_TYPES.items()}

    def __len__(self) -> int:
        return self._count

    @property
    def content_bytes(self) -> int:
        return self._used

    def sequences(self) -> Sequences:
        """All that was appended, as views that hold until the next change."""
        return Sequences(
            self._content[: self._used], **{name: rows[: self._count] for name, rows in self._rows.items()}
        )

    def clear(self) -> None:
        self._count = self._used = 0

    def take(self, window: npt.NDArray[np.uint8], begin: int, end: int, origin: int) -> int:
        """Append the records that stand one after the other in `window[begin:end]`; the position after the last one.

        It stops where the data ends before the record does, and at a record that is damaged or that is anything but a
        valid example in the plain encoding of writers (`packing.wire`); `packing.tfrecord` and `read_sequence` tell
        what such a record is. `origin` is the shard's offset of `window[0]`. Nothing outside `window[begin:end]` is
        read. Raises ValueError unless the window is a contiguous uint8 array that has these positions.
        """
        if window.dtype != np.uint8 or window.ndim != 1 or not window.flags.c_contiguous:
            raise ValueError(f"window: expected a contiguous uint8 array, got {window.dtype} {window.shape}")
        if not 0 <= begin <= end <= len(window):
            raise ValueError(f"window: expected 0 <= begin <= end <= {len(window)}, got {begin} and {end}")
        while True:
            begin, self._count, self._used, missing = take_records(
                read_only(window),
                begin,
                end,
                origin,
                crc32c_address(),
                self._content,
                tuple(self._rows.values()),
                self._count,
                self._used,
            )
            if not missing:
                return begin
            self.reserve(1, missing)

    def append(self, sequence: RawSequence, offset: int) -> None:
        """Append one sequence that was read in another way; `offset` as in `Sequences`."""
        tokens, masked_ids = encode_varints(sequence.tokens), encode_varints(sequence.masked_ids)
        segments = sequence.segments.astype(np.uint8).tobytes()
        positions = (sequence.masked_positions & 0xFFFF).astype("<u2").tobytes()
        content = np.frombuffer(tokens + segments + masked_ids + positions, np.uint8)
        row = (0, offset, len(segments), len(tokens), len(positions) // 2, len(masked_ids), sequence.label)
        rows = (np.array([value], dtype) for value, dtype in zip(row, ROW_TYPES.values(), strict=True))
        self.extend(Sequences(content, *rows))

    def extend(self, other: Sequences) -> None:
        """Append all of `other`, by copying its arrays."""
        self.reserve(len(other), len(other.content))
        added = slice(self._count, self._count + len(other))
        for name, rows in self._rows.items():
            rows[added] = getattr(other, name)
        self._rows["starts"][added] += self._used
        self._content[self._used : self._used + len(other.content)] = other.content
        self._count += len(other)
        self._used += len(other.content)

    def reserve(self, rows: int, content: int) -> None:
        """Make room for so many rows and bytes of content behind those that there are."""
        self._rows = {name: _grown(array, self._count, rows) for name, array in self._rows.items()}
        self._content = _grown(self._content, self._used, content)


def _grown(array: Array, used: int, more: int) -> Array:
    """`array`, or a copy of its used part at the start of a larger one, if `more` entries do not fit behind it."""
    if used + more <= len(array):
        return array
    larger = np.empty(max(2 * len(array), used + more), array.dtype)
    larger[:used] = array[:used]
    return larger


def encode_varints(values: Array) -> bytes:
    """Integers >= 0 in protobuf's base 128, each in its shortest form."""
    encoded = bytearray()
    for value in values.tolist():
        rest = value
        while rest >= 0x80:
            encoded.append(rest & 0x7F | 0x80)
            rest >>= 7
        encoded.append(rest)
    return bytes(encoded)


def decode_varints(encoded: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The reverse of `encode_varints`, for values below 2^63."""
    ends = np.flatnonzero(encoded < 0x80) + 1
    begins = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    places = np.arange(len(encoded)) - np.repeat(begins, ends - begins)
    return np.add.reduceat((encoded & 0x7F).astype(np.int64) << (7 * places), begins)
