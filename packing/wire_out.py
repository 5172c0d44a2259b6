"""Writing protobuf's wire format in machine code, from a position in an array on: what is put there, and where it ends.

Nothing is checked: the caller knows that there is room.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from packing.compiled import compiled

Bytes = npt.NDArray[np.uint8]


@compiled
def field_size(size: int) -> int:
    """Bytes of a field of `size` bytes with its tag and its length."""
    return 1 + varint_size(size) + size


@compiled
def varint_size(value: int) -> int:
    """Bytes of a varint of at most 5 bytes."""
    return 1 + (value >= 1 << 7) + (value >= 1 << 14) + (value >= 1 << 21) + (value >= 1 << 28)


@compiled
def put_field(out: Bytes, at: int, tag: int, size: int) -> int:
    """What stands before the `size` bytes of a length-delimited field."""
    out[at] = tag
    return put_varint(out, at + 1, size)


@compiled
def put_varint(out: Bytes, at: int, value: int) -> int:
    """An integer >= 0 in its shortest form."""
    while value >= 0x80:
        out[at] = value & 0x7F | 0x80
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@compiled
def repeat_varint(out: Bytes, at: int, value: int, times: int) -> int:
    """The same varint some `times` over."""
    if value < 0x80:
        filled = out[at : at + times]
        for i in range(len(filled)):
            filled[i] = value
        return at + times
    for _ in range(times):
        at = put_varint(out, at, value)
    return at


@compiled
def repeat_float(out: Bytes, at: int, value: int, times: int) -> int:
    """The float32 of an integer some `times` over."""
    bits = int(np.float32(value).view(np.uint32))
    filled = out[at : at + 4 * times]
    for i in range(0, len(filled), 4):
        put_uint32(filled, i, bits)
    return at + 4 * times


@compiled
def put_positions(positions: Bytes, offset: int, out: Bytes, at: int) -> int:
    """Little-endian uint16, each moved by `offset`, as varints."""
    for i in range(len(positions) // 2):
        at = put_varint(out, at, positions[2 * i] + 256 * positions[2 * i + 1] + offset)
    return at


@compiled
def put_uint32(out: Bytes, at: int, value: int) -> None:
    """The low 32 bits of `value`, little-endian."""
    out[at], out[at + 1], out[at + 2], out[at + 3] = value, value >> 8, value >> 16, value >> 24
