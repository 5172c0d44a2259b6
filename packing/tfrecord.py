"""TFRecord framing: `uint64 length, uint32 crc(length), payload, uint32 crc(payload)`, little-endian.

The CRC is CRC-32C, masked by a rotation and a constant (TensorFlow, `core/lib/hash/crc32c.h`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

import google_crc32c

from packing.errors import ContentError, RecordError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
FRAME_BYTES = _HEADER.size + _FOOTER.size
MAX_RECORD_BYTES = 32 * 1024 * 1024
"""Of a record with its frame; a damaged length must not make a reader wait for the rest of a compressed shard."""
_STEP, _MOST = 64 * 1024, 1024 * 1024


def masked_crc(data: bytes) -> int:
    """The CRC-32C of `data` as TFRecord stores it."""
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def encode_record(payload: bytes) -> bytes:
    """One framed record."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, _FOOTER.pack(masked_crc(length)), payload, _FOOTER.pack(masked_crc(payload))))


def frame_size(header: bytes) -> int:
    """Bytes of the frame that begins with these HEADER_BYTES; raises ContentError if that cannot be."""
    length = _payload_size(header)
    if length > MAX_RECORD_BYTES - FRAME_BYTES:
        raise ContentError(f"a record of at most {MAX_RECORD_BYTES} bytes", f"a length of {length}")
    return length + FRAME_BYTES


def _payload_size(header: bytes) -> int:
    length, crc = _HEADER.unpack(header)
    found = masked_crc(header[:8])
    if crc != found:
        raise ContentError(f"CRC 0x{crc:08x} of the record's length", f"0x{found:08x} (not a TFRecord, or damaged)")
    return int(length)


def payload_of(frame: bytes) -> bytes:
    """The payload of a whole frame; raises ContentError if it is damaged."""
    payload = frame[HEADER_BYTES : -_FOOTER.size]
    (crc,) = _FOOTER.unpack(frame[-_FOOTER.size :])
    found = masked_crc(payload)
    if crc != found:
        raise ContentError(f"CRC 0x{crc:08x} of the payload", f"0x{found:08x} (the payload is damaged)")
    return payload


def compression_of(head: bytes) -> int | None:
    """zlib's name for the compression of a stored object that begins with these HEADER_BYTES or fewer; None if plain.

    A plain TFRecord is recognised first, by the CRC of its first length; two of its bytes may look like ZLIB's header.
    """
    if len(head) < 2 or _starts_with_record(head):
        return None
    if head[:2] == b"\x1f\x8b":
        return zlib.MAX_WBITS | 16
    if head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0:
        return zlib.MAX_WBITS
    return None


def decompress(data: bytes, shard: str) -> bytes:
    """The TFRecord stream of a stored object in memory (`packing.content` reads those that may be large).

    Raises RecordError if the compressed stream is damaged, cut off or followed by something else, naming the first
    record that it does not give.
    """
    window = compression_of(data[:HEADER_BYTES])
    return data if window is None else _inflate(data, shard, window)


def _starts_with_record(data: bytes) -> bool:
    if len(data) < HEADER_BYTES:
        return False
    _, crc = _HEADER.unpack_from(data)
    return bool(crc == masked_crc(data[:8]))


def _inflate(data: bytes, shard: str, window: int) -> bytes:
    content = bytearray()
    steps = (data[start : start + _STEP] for start in range(0, len(data), _STEP))
    try:
        for piece in inflate(steps, window, len(data), _MOST):
            content += piece
    except ContentError as exc:
        record, offset = _end_of_records(bytes(content), shard)
        raise RecordError(
            shard,
            record=record,
            offset=offset,
            expected=exc.expected,
            found=exc.found,
            advice="upload the shard again",
        ) from exc
    return bytes(content)


def inflate(data: Iterable[bytes], window: int, size: int, most: int, *, cut: bool = False) -> Iterator[bytes]:
    """The content of one stream of `size` bytes, or of several one after the other, in pieces of `most` bytes at most.

    `window` is zlib's name for the compression. Raises ContentError if a stream is damaged, or ends early and is not
    known to be `cut`.
    """
    stream = zlib.decompressobj(window)
    for step in data:
        rest, full = step, False
        while rest or full:
            if stream.eof:
                stream = zlib.decompressobj(window)
            try:
                piece = stream.decompress(rest, most)
            except zlib.error as exc:
                raise _damaged(size, str(exc)) from exc
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
            full = len(piece) == most and not stream.eof
            yield piece
    if not (stream.eof or cut):
        raise _damaged(size, "it ends early")


def _damaged(size: int, reason: str) -> ContentError:
    return ContentError(f"a complete compressed stream of {size} bytes", f"a damaged one ({reason})")


def _end_of_records(data: bytes, shard: str) -> tuple[int, int]:
    """Number and offset of the first record that `data` does not hold whole."""
    ends = [0]
    try:
        ends.extend(offset + len(payload) + FRAME_BYTES for offset, payload in read_records(data, shard))
    except RecordError as exc:
        return exc.record, exc.offset
    return len(ends) - 1, ends[-1]


def read_records(data: bytes, shard: str) -> Iterator[tuple[int, bytes]]:
    """The offset of each frame and its payload, with both CRCs checked; raises RecordError at the first bad frame."""
    offset, record = 0, 0
    while offset < len(data):
        payload = _read_frame(data, offset, shard, record)
        yield offset, payload
        offset += len(payload) + FRAME_BYTES
        record += 1


def read_record_at(data: bytes, offset: int, size: int) -> bytes:
    """The payload of `size` bytes of a record whose frame was checked before."""
    start = offset + HEADER_BYTES
    return data[start : start + size]


def _read_frame(data: bytes, offset: int, shard: str, record: int) -> bytes:
    try:
        return payload_of(_whole_frame(data, offset))
    except ContentError as exc:
        raise RecordError(shard, record=record, offset=offset, expected=exc.expected, found=exc.found) from exc


def _whole_frame(data: bytes, offset: int) -> bytes:
    remaining = len(data) - offset
    if remaining < FRAME_BYTES:
        raise ContentError(
            f"a record frame of at least {FRAME_BYTES} bytes", f"{remaining} bytes (the shard is cut off)"
        )
    length = _payload_size(data[offset : offset + HEADER_BYTES])
    if length > remaining - FRAME_BYTES:
        raise ContentError(
            f"a payload of {length} bytes", f"{remaining - FRAME_BYTES} bytes left (the shard is cut off)"
        )
    return data[offset : offset + length + FRAME_BYTES]
