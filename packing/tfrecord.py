"""TFRecord framing: `uint64 length, uint32 crc(length), payload, uint32 crc(payload)`, little-endian.

The CRC is CRC-32C, masked by a rotation and a constant (TensorFlow, `core/lib/hash/crc32c.h`).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator

import google_crc32c

from packing.errors import InputError, RecordError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAME_BYTES = _HEADER.size + _FOOTER.size


def masked_crc(data: bytes) -> int:
    """The CRC-32C of `data` as TFRecord stores it."""
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def encode_record(payload: bytes) -> bytes:
    """One framed record."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, _FOOTER.pack(masked_crc(length)), payload, _FOOTER.pack(masked_crc(payload))))


def decompress(data: bytes, shard: str) -> bytes:
    """The TFRecord stream of a stored object, whose compression (none, GZIP, ZLIB) is told by its first bytes.

    A plain TFRecord is recognised first, by the CRC of its first length; two of its bytes may look like ZLIB's header.
    Raises InputError naming `shard` if the compressed stream is damaged, cut off or followed by something else.
    """
    if not data or _starts_with_record(data):
        return data
    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.decompress(data)
        if data[0] & 0x0F == 8 and len(data) > 1 and (data[0] << 8 | data[1]) % 31 == 0:
            return _inflate(data)
    except (EOFError, OSError, ValueError, zlib.error) as exc:
        raise InputError(
            f"{shard}: expected a complete compressed stream of {len(data)} bytes, found a damaged one ({exc}); "
            "upload the shard again"
        ) from exc
    return data


def _starts_with_record(data: bytes) -> bool:
    if len(data) < _HEADER.size:
        return False
    _, crc = _HEADER.unpack_from(data)
    return bool(crc == masked_crc(data[:8]))


def _inflate(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(data)
    if not stream.eof:
        raise ValueError("it ends early")
    if stream.unused_data:
        raise ValueError(f"{len(stream.unused_data)} bytes follow its end")
    return content


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
    start = offset + _HEADER.size
    return data[start : start + size]


def _read_frame(data: bytes, offset: int, shard: str, record: int) -> bytes:
    def bad(expected: str, found: str) -> RecordError:
        return RecordError(shard, record=record, offset=offset, expected=expected, found=found)

    remaining = len(data) - offset
    if remaining < FRAME_BYTES:
        raise bad(f"a record frame of at least {FRAME_BYTES} bytes", f"{remaining} bytes (the shard is cut off)")
    length, crc = _HEADER.unpack_from(data, offset)
    found = masked_crc(data[offset : offset + 8])
    if crc != found:
        raise bad(f"CRC 0x{crc:08x} of the record's length", f"0x{found:08x} (not a TFRecord, or damaged)")
    if length > remaining - FRAME_BYTES:
        raise bad(f"a payload of {length} bytes", f"{remaining - FRAME_BYTES} bytes left (the shard is cut off)")
    payload = read_record_at(data, offset, length)
    (crc,) = _FOOTER.unpack_from(data, offset + _HEADER.size + length)
    found = masked_crc(payload)
    if crc != found:
        raise bad(f"CRC 0x{crc:08x} of the payload", f"0x{found:08x} (the payload is damaged)")
    return payload
