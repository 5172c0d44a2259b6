"""Putting packs together in machine code: framed TFRecords whose payloads are pieces of raw sequences, copied.

The bytes are those of `encode_record(encode_example(assemble_pack(...)))`: protobuf's deterministic serialization has
the features sorted by name. Only positions are new; the size of every list is known before the first byte is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from packing.compiled import compiled, entry_point, prefetch, read_only
from packing.crc32c import crc32c_address, masked_crc_at
from packing.errors import VerificationError
from packing.features import packed_features
from packing.sequences import ROW_TYPES, Sequences
from packing.tfrecord import FRAME_BYTES
from packing.types import Parameters
from packing.wire import copy_bytes
from packing.wire_out import (
    field_size,
    put_field,
    put_positions,
    put_uint32,
    put_varint,
    repeat_float,
    repeat_varint,
    varint_size,
)

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[Any]
Rows = tuple[Ints, ...]
Limits = tuple[int, int, int]  # L, K and M

_FEATURES = sorted(packed_features(1, 1, 1), key=lambda feature: feature.name)
_NAME_SIZES = np.array([len(feature.name) for feature in _FEATURES], dtype=np.int64)
_NAMES = np.array([list(feature.name.encode().ljust(32, b"\0")) for feature in _FEATURES], dtype=np.uint8)
_LISTS = np.array([0x12 if feature.dtype == "float32" else 0x1A for feature in _FEATURES], dtype=np.uint8)
_IDS, _MASK, _MASKED_IDS, _MASKED_POSITIONS, _MASKED_WEIGHTS = range(5)
_LABELS, _STARTS, _WEIGHTS, _POSITIONS, _SEGMENTS = range(5, 10)

_AHEAD = 2
"""How many packs ahead of the one that is written its sequences are fetched."""
_LINE = 64
"""Bytes of memory that are fetched together."""

_GOOD, _UNSOUND, _EMPTY, _TOO_LONG, _TOO_MANY, _TOO_MASKED, _NO_ROOM = range(7)
_EXPECTED = {
    _UNSOUND: "indices of {sequences} sequences that lie within {content} bytes",
    _EMPTY: "at least one sequence",
    _TOO_LONG: "at most {parameters.max_sequence_length} tokens",
    _TOO_MANY: "at most {parameters.max_sequences_per_pack} sequences",
    _TOO_MASKED: "at most {parameters.max_predictions_per_pack} masked tokens",
}


def pack_sizes(sequences: Sequences, packs: npt.NDArray[np.int32], parameters: Parameters) -> npt.NDArray[np.int64]:
    """Bytes of each pack's framed record, int64[packs]; `packs` as in `WritePlan`.

    Raises VerificationError for a pack that is empty, holds more than `parameters` allow, or names a sequence that
    there is not.
    """
    sizes = np.empty(len(packs), dtype=np.int64)
    pack, problem = _measure_packs(*_arguments(sequences, packs, parameters), sizes)
    if problem != _GOOD:
        raise _error(problem, pack, sequences, packs, parameters)
    return sizes


def assemble_packs(
    sequences: Sequences, packs: npt.NDArray[np.int32], parameters: Parameters, out: Bytes | None = None
) -> Bytes:
    """The framed records of the packs, one after the other, in the first bytes of `out` or in a new array.

    Raises VerificationError as `pack_sizes` does, ValueError if `out` is too small.
    """
    if out is None:
        out = np.empty(pack_sizes(sequences, packs, parameters).sum(), dtype=np.uint8)
    pack, problem, size = _write_packs(*_arguments(sequences, packs, parameters), crc32c_address(), out)
    if problem == _NO_ROOM:
        raise ValueError(f"out: expected room for {len(packs)} packs, {len(out)} bytes hold {pack}")
    if problem != _GOOD:
        raise _error(problem, pack, sequences, packs, parameters)
    return out[:size]


def _arguments(
    sequences: Sequences, packs: npt.NDArray[np.int32], parameters: Parameters
) -> tuple[Bytes, Rows, npt.NDArray[np.int32], Limits]:
    limits = (parameters.max_sequence_length, parameters.max_sequences_per_pack, parameters.max_predictions_per_pack)
    rows = tuple(read_only(getattr(sequences, name)) for name in ROW_TYPES)
    return read_only(sequences.content), rows, read_only(np.ascontiguousarray(packs, dtype=np.int32)), limits


def _error(
    problem: int, pack: int, sequences: Sequences, packs: npt.NDArray[np.int32], parameters: Parameters
) -> VerificationError:
    expected = _EXPECTED[problem].format(
        sequences=len(sequences), content=len(sequences.content), parameters=parameters
    )
    return VerificationError(f"pack {pack} of {len(packs)}: expected {expected}, found {packs[pack].tolist()}")


@entry_point
def _measure_packs(content: Bytes, rows: Rows, packs: Ints, limits: Limits, records: Ints) -> tuple[int, int]:
    """Fill `records` with the bytes of each pack; the first pack with a problem, and which."""
    sizes = np.empty(10, np.int64)
    for i in range(len(packs)):
        problem = _measure(content, rows, packs[i], limits, sizes)
        if problem != _GOOD:
            return i, problem
        records[i] = FRAME_BYTES + field_size(_features_size(sizes))
    return len(packs), _GOOD


@entry_point
def _write_packs(
    content: Bytes, rows: Rows, packs: Ints, limits: Limits, crc32c: int, out: Bytes
) -> tuple[int, int, int]:
    """Write the packs to `out`; the first pack with a problem, which, and the bytes written."""
    sizes = np.empty(10, np.int64)
    positions = np.empty(3 * limits[0], np.uint8)
    end = 0
    for i in range(limits[0]):
        end = put_varint(positions, end, i)
    base = out.ctypes.data
    at = 0
    for i in range(len(packs)):
        _look_ahead(content, rows, packs, i)
        problem = _measure(content, rows, packs[i], limits, sizes)
        if problem != _GOOD:
            return i, problem, at
        features = _features_size(sizes)
        payload = field_size(features)
        if payload + FRAME_BYTES > len(out) - at:
            return i, _NO_ROOM, at
        put_uint32(out, at, payload)
        put_uint32(out, at + 4, payload >> 32)
        put_uint32(out, at + 8, masked_crc_at(crc32c, base + at, 8))
        start = at + 12
        at = put_field(out, start, 0x0A, features)
        at = _write_features(content, rows, packs[i], sizes, positions, out, at)
        put_uint32(out, at, masked_crc_at(crc32c, base + start, payload))
        at += 4
    return len(packs), _GOOD, at


@compiled
def _look_ahead(content: Bytes, rows: Rows, packs: Ints, i: int) -> None:
    """Have what packs after the `i`-th need brought near: rows, then content; a pack's are all over the memory."""
    starts, _, lengths, token_bytes, masked, masked_id_bytes, labels = rows
    if i + 2 * _AHEAD < len(packs):
        for sequence in packs[i + 2 * _AHEAD]:
            prefetch(starts.ctypes.data + 8 * sequence)
            for row in (lengths, token_bytes, masked, masked_id_bytes):
                prefetch(row.ctypes.data + 4 * sequence)
            prefetch(labels.ctypes.data + sequence)
    if i + _AHEAD < len(packs):
        for sequence in packs[i + _AHEAD]:
            if _is_sound(content, rows, sequence):
                last, size = _piece(rows, sequence, _MASKED_POSITIONS)
                for at in range(starts[sequence], last + size, _LINE):
                    prefetch(content.ctypes.data + at)


@compiled
def _measure(content: Bytes, rows: Rows, pack: Ints, limits: Limits, sizes: Ints) -> int:
    """Fill `sizes` with the bytes of each feature's packed values; whether, and why, the pack cannot be made."""
    _, _, lengths, token_bytes, masked, masked_id_bytes, _ = rows
    slots, most, predictions = limits
    sizes[_IDS] = sizes[_MASK] = sizes[_POSITIONS] = sizes[_SEGMENTS] = slots
    sizes[_MASKED_IDS] = sizes[_MASKED_POSITIONS] = predictions
    sizes[_LABELS] = sizes[_STARTS] = most
    sizes[_MASKED_WEIGHTS], sizes[_WEIGHTS] = 4 * predictions, 4 * most
    count = tokens = masked_tokens = 0
    for i in pack:
        if i == -1:
            continue
        if not _is_sound(content, rows, i):
            return _UNSOUND
        count += 1
        begin, size = _piece(rows, i, _MASKED_POSITIONS)
        sizes[_IDS] += token_bytes[i] - lengths[i]
        sizes[_MASK] += (varint_size(count) - 1) * lengths[i]
        sizes[_MASKED_IDS] += masked_id_bytes[i] - masked[i]
        sizes[_MASKED_POSITIONS] += _more_bytes_of_positions(content[begin : begin + size], tokens)
        sizes[_STARTS] += varint_size(tokens) - 1
        sizes[_POSITIONS] += _positions_size(lengths[i]) - lengths[i]
        tokens += lengths[i]
        masked_tokens += masked[i]
    if count == 0:
        return _EMPTY
    if tokens > slots:
        return _TOO_LONG
    if count > most:
        return _TOO_MANY
    return _TOO_MASKED if masked_tokens > predictions else _GOOD


@compiled
def _is_sound(content: Bytes, rows: Rows, i: int) -> bool:
    """Whether there is a row `i` that speaks of bytes that are there."""
    starts, _, lengths, token_bytes, masked, masked_id_bytes, labels = rows
    if not 0 <= i < len(starts):
        return False
    size = token_bytes[i] + lengths[i] + masked_id_bytes[i] + 2 * masked[i]
    counted = 0 < lengths[i] <= token_bytes[i] and 0 <= masked[i] <= masked_id_bytes[i]
    return bool(counted and labels[i] <= 1 and 0 <= starts[i] <= len(content) - size)


@compiled
def _piece(rows: Rows, i: int, which: int) -> tuple[int, int]:
    """Where in the content the piece of sequence `i` for a feature begins, and its bytes."""
    starts, _, lengths, token_bytes, masked, masked_id_bytes, _ = rows
    begin = starts[i]
    if which == _IDS:
        return begin, token_bytes[i]
    begin += token_bytes[i]
    if which == _SEGMENTS:
        return begin, lengths[i]
    begin += lengths[i]
    if which == _MASKED_IDS:
        return begin, masked_id_bytes[i]
    return begin + masked_id_bytes[i], 2 * masked[i]


@compiled
def _more_bytes_of_positions(positions: Bytes, offset: int) -> int:
    """What the varints of masked positions, moved by `offset`, take beyond one byte each."""
    more = 0
    for i in range(len(positions) // 2):
        position = positions[2 * i] + 256 * positions[2 * i + 1] + offset
        more += (position >= 1 << 7) + (position >= 1 << 14)
    return more


@compiled
def _positions_size(length: int) -> int:
    """Bytes of the varints of 0..length - 1; length is 65,536 at most."""
    return length + max(0, length - (1 << 7)) + max(0, length - (1 << 14))


@compiled
def _features_size(sizes: Ints) -> int:
    """Bytes of all features: four nested fields around the packed values of each."""
    total = 0
    for which in range(10):
        feature = field_size(field_size(sizes[which]))
        total += field_size(field_size(_NAME_SIZES[which]) + field_size(feature))
    return total


@compiled
def _write_features(content: Bytes, rows: Rows, pack: Ints, sizes: Ints, positions: Bytes, out: Bytes, at: int) -> int:
    """Write the ten features in the order of their names; the end of the last."""
    lengths = rows[2]
    for which in range(10):
        at = _put_names(out, at, which, sizes[which])
        end = at + sizes[which]
        number = offset = 0
        for i in pack:
            if i >= 0:
                number += 1
                at = _write_values(content, rows, i, which, number, offset, positions, out, at)
                offset += lengths[i]
        at = repeat_varint(out, at, 0, end - at)
    return at


@compiled
def _write_values(
    content: Bytes, rows: Rows, i: int, which: int, number: int, offset: int, positions: Bytes, out: Bytes, at: int
) -> int:
    """Write what sequence `i`, the pack's `number`-th, adds to a feature, `offset` tokens after the pack's start."""
    _, _, lengths, _, masked, _, labels = rows
    begin, size = _piece(rows, i, which)
    if which in (_IDS, _SEGMENTS, _MASKED_IDS):
        return copy_bytes(content, begin, size, out, at)
    if which == _MASK:
        return repeat_varint(out, at, number, lengths[i])
    if which == _POSITIONS:
        return copy_bytes(positions, 0, _positions_size(lengths[i]), out, at)
    if which == _MASKED_POSITIONS:
        return put_positions(content[begin : begin + size], offset, out, at)
    if which == _MASKED_WEIGHTS:
        return repeat_float(out, at, number, masked[i])
    if which == _STARTS:
        return put_varint(out, at, offset)
    if which == _WEIGHTS:
        return repeat_float(out, at, 1, 1)
    out[at] = labels[i]
    return at + 1


@compiled
def _put_names(out: Bytes, at: int, which: int, size: int) -> int:
    """All of a feature that stands before its `size` bytes of packed values."""
    packed = field_size(size)
    feature = field_size(packed)
    at = put_field(out, at, 0x0A, field_size(_NAME_SIZES[which]) + field_size(feature))
    at = put_field(out, at, 0x0A, _NAME_SIZES[which])
    for i in range(_NAME_SIZES[which]):
        out[at + i] = _NAMES[which, i]
    at = put_field(out, at + _NAME_SIZES[which], 0x12, feature)
    at = put_field(out, at, _LISTS[which], packed)
    return put_field(out, at, 0x0A, size)
