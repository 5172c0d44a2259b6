"""Reading raw examples from their bytes, in machine code: validate, and copy what a pack needs, without decoding ids.

Taken are records whose every byte is understood: both CRCs right, and a `tf.train.Example` as writers encode it (one
packed list a feature, key before value, each key once, shortest varints, the masked slots in use first). Whatever
else there is, good or bad, is left to `packing.example.read_sequence`, so a record that is taken here is one that it
accepts, and gives the same sequence.

Positions are absolute in `window`. -1 is the answer of a check that failed, and what is given on goes on failing:
no function reads at a negative position, nor at or behind the `end` that it is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from packing.compiled import compiled, entry_point
from packing.crc32c import masked_crc_at
from packing.features import raw_features

Bytes = npt.NDArray[np.uint8]
Span = tuple[int, int]
Sizes = tuple[int, int, int, int, int]  # length, token bytes, masked tokens, masked id bytes, label

_IDS, _MASK, _SEGMENTS, _POSITIONS, _MASKED_IDS, _WEIGHTS, _LABELS = range(7)
_FEATURES = raw_features(1, 1)
_NAMES = np.array([list(feature.name.encode().ljust(32, b"\0")) for feature in _FEATURES], dtype=np.uint8)
_BY_LENGTH = np.full(32, -1, dtype=np.int64)  # no two names are equally long
_BY_LENGTH[[len(feature.name) for feature in _FEATURES]] = range(7)

_FIELD_1, _FIELD_2, _FIELD_3 = 0x0A, 0x12, 0x1A  # tags of length-delimited fields
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = _FIELD_1, _FIELD_2, _FIELD_3


@entry_point
def take_records(
    window: Bytes,
    begin: int,
    end: int,
    origin: int,
    crc32c: int,
    content: Bytes,
    rows: tuple[npt.NDArray[Any], ...],
    count: int,
    used: int,
) -> tuple[int, int, int, int]:
    """Append the records of `window[begin:end]` behind `count` rows and `used` bytes of content.

    `crc32c` is an address (`packing.crc32c`), `rows` are the arrays of `Sequences` behind its content. Gives the
    position of the first record not taken, the new count and the new used, and how many bytes of content that record
    needs if there was no room for it, else 0.
    """
    starts, offsets, lengths, token_bytes, masked, masked_id_bytes, labels = rows
    spans = np.empty((7, 2), np.int64)
    base = window.ctypes.data
    position = begin
    while True:
        payload, payload_end = _payload(window, position, end, base, crc32c)
        if payload < 0 or not _find_features(window, payload, payload_end, spans):
            return position, count, used, 0
        sizes = _measure(window, spans)
        length, tokens_size, masked_count, masked_ids_size, label = sizes
        if length < 0:
            return position, count, used, 0
        size = tokens_size + length + masked_ids_size + 2 * masked_count
        if count == len(starts) or size > len(content) - used:
            return position, count, used, size
        if not _copy(window, spans, sizes, content[used : used + size]):
            return position, count, used, 0
        starts[count], offsets[count], lengths[count], labels[count] = used, origin + position, length, label
        token_bytes[count], masked[count], masked_id_bytes[count] = tokens_size, masked_count, masked_ids_size
        count += 1
        used += size
        position = payload_end + 4


@compiled
def _payload(window: Bytes, begin: int, end: int, base: int, crc32c: int) -> Span:
    """The payload of the TFRecord frame at `begin`; (-1, -1) unless it is whole and both CRCs are right."""
    start, room = begin + 12, end - begin - 16
    if room < 0 or _uint32(window, begin + 8) != masked_crc_at(crc32c, base + begin, 8):
        return -1, -1
    size = _uint32(window, begin)
    if size > room or _uint32(window, begin + 4) != 0:
        return -1, -1
    if _uint32(window, start + size) != masked_crc_at(crc32c, base + start, size):
        return -1, -1
    return start, start + size


@compiled
def _uint32(window: Bytes, begin: int) -> int:
    low = window[begin] | window[begin + 1] << 8
    return int(low | window[begin + 2] << 16 | window[begin + 3] << 24)


@compiled
def _find_features(window: Bytes, begin: int, end: int, spans: npt.NDArray[np.int64]) -> bool:
    """Where the packed values of the seven features are (`spans`); whether the example is fully understood."""
    spans[:] = -1
    position, stop = _field(window, begin, end, _FIELD_1)
    if stop != end:
        return False
    found = 0
    while position < end:
        entry, entry_end = _field(window, position, end, _FIELD_1)
        key, key_end = _field(window, entry, entry_end, _FIELD_1)
        value, value_end = _field(window, key_end, entry_end, _FIELD_2)
        if value < 0 or value_end != entry_end:
            return False
        which = _which(window, key, key_end)
        if which >= 0:
            if spans[which, 0] >= 0:
                return False
            kind = _FLOAT_LIST if which == _WEIGHTS else _INT64_LIST
            spans[which, 0], spans[which, 1] = _values(window, value, value_end, kind)
            if spans[which, 0] < 0:
                return False
            found += 1
        elif not (_all_below(window, key, key_end, 0x80) and _is_plain(window, value, value_end)):
            return False
        position = entry_end
    return found == 7


@compiled
def _field(window: Bytes, begin: int, end: int, tag: int) -> Span:
    """The bytes of the length-delimited field that begins at `begin` with `tag` and ends at or before `end`."""
    if begin < 0 or end - begin < 2 or window[begin] != tag:
        return -1, -1
    size = int(window[begin + 1])
    start = begin + 2
    if size >= 0x80:
        size, start = _long_varint(window, begin + 1, end)
    if size > end - start:
        return -1, -1
    return start, start + size


@compiled
def _long_varint(window: Bytes, begin: int, end: int) -> tuple[int, int]:
    """The value of a varint of 2 to 4 bytes in its shortest form, and its end; else one that is too large for all."""
    value = 0
    for i in range(min(4, end - begin)):
        byte = int(window[begin + i])
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return (value, begin + i + 1) if byte else (1 << 62, begin)
    return 1 << 62, begin


@compiled
def _which(window: Bytes, key: int, key_end: int) -> int:
    """The number of the feature of that name, -1 for one beyond the seven. No two names are equally long."""
    name = window[key:key_end]
    which = _BY_LENGTH[len(name)] if len(name) < len(_BY_LENGTH) else -1
    if which >= 0:
        expected = _NAMES[which]
        for i in range(len(name)):
            if name[i] != expected[i]:
                return -1
    return int(which)


@compiled
def _values(window: Bytes, begin: int, end: int, kind: int) -> Span:
    """The packed values of a Feature that is one list of that kind."""
    values, values_end = _field(window, begin, end, kind)
    if values_end != end:
        return -1, -1
    if values < end:
        values, values_end = _field(window, values, end, _FIELD_1)
        if values_end != end:
            return -1, -1
    return values, end


@compiled
def _is_plain(window: Bytes, begin: int, end: int) -> bool:
    """Whether a feature that nothing reads is well-formed all the same, as protobuf would find."""
    if begin == end:
        return True
    floats, floats_end = _values(window, begin, end, _FLOAT_LIST)
    if floats >= 0:
        return (floats_end - floats) % 4 == 0
    integers, integers_end = _values(window, begin, end, _INT64_LIST)
    if integers >= 0:
        return _are_varints(window, integers, integers_end)
    item, items_end = _field(window, begin, end, _BYTES_LIST)
    while 0 <= item < items_end:
        item = _field(window, item, items_end, _FIELD_1)[1]
    return item >= 0 and items_end == end


@compiled
def _measure(window: Bytes, spans: npt.NDArray[np.int64]) -> Sizes:
    """The row of an example whose features are at `spans`; its length is -1 unless it is a valid one."""
    slots, predictions = spans[_MASK, 1] - spans[_MASK, 0], (spans[_WEIGHTS, 1] - spans[_WEIGHTS, 0]) // 4
    length = _leading_ones(window, spans[_MASK, 0], spans[_MASK, 1])
    token_bytes = _leading_varints(window, spans[_IDS, 0], spans[_IDS, 1], length, slots)
    masked = _leading_weights(window, spans[_WEIGHTS, 0], spans[_WEIGHTS, 1])
    masked_id_bytes = _leading_varints(window, spans[_MASKED_IDS, 0], spans[_MASKED_IDS, 1], masked, predictions)
    label, label_end = spans[_LABELS, 0], spans[_LABELS, 1]
    segments, segments_end = spans[_SEGMENTS, 0], spans[_SEGMENTS, 1]
    if (
        length > 0
        and token_bytes >= 0
        and masked_id_bytes >= 0
        and label_end - label == 1
        and window[label] <= 1
        and segments_end - segments == slots
        and _all_below(window, segments, segments + length, 2)
        and _all_below(window, segments + length, segments_end, 0x80)
    ):
        return length, token_bytes, masked, masked_id_bytes, int(window[label])
    return -1, 0, 0, 0, 0


@compiled
def _leading(window: Bytes, begin: int, step: int, slots: int) -> int:
    """Where in `slots` bytes, `step` apart, the first 0 is, provided that nothing but 0 follows it."""
    low, high = 0, slots
    while low < high:
        middle = (low + high) // 2
        if window[begin + step * middle]:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _leading_ones(window: Bytes, begin: int, end: int) -> int:
    """How many bytes 1 there are before nothing but bytes 0, else -1."""
    count = _leading(window, begin, 1, end - begin)
    wrong = np.uint8(0)
    for byte in window[begin : begin + count]:
        wrong = np.uint8(wrong | (byte ^ 1))
    return count if wrong == 0 and _all_below(window, begin + count, end, 1) else -1


@compiled
def _leading_weights(window: Bytes, begin: int, end: int) -> int:
    """How many floats 1.0 (0x3F800000) there are before nothing but 0.0, else -1."""
    if (end - begin) % 4:
        return -1
    count = _leading(window, begin + 3, 4, (end - begin) // 4)
    ones = window[begin : begin + 4 * count]
    wrong = np.uint8(0)
    for i in range(count):
        low = ones[4 * i] | ones[4 * i + 1]
        wrong = np.uint8(wrong | low | (ones[4 * i + 2] ^ 0x80) | (ones[4 * i + 3] ^ 0x3F))
    return count if wrong == 0 and _all_below(window, begin + 4 * count, end, 1) else -1


@compiled
def _leading_varints(window: Bytes, begin: int, end: int, count: int, slots: int) -> int:
    """The bytes of the first `count` of `slots` varints, none of which is negative; the others must be of one byte."""
    stop = end - (slots - count)
    if count < 0 or stop - begin < count:
        return -1
    unfinished = np.uint32(0)
    for byte in window[begin:stop]:
        unfinished = np.uint32(unfinished + (byte >> 7))
    whole = stop - begin - unfinished == count
    return stop - begin if whole and _are_varints(window, begin, stop) and _all_below(window, stop, end, 0x80) else -1


@compiled
def _are_varints(window: Bytes, begin: int, end: int) -> bool:
    """Whether these are whole varints of at most 9 bytes, each in its shortest form (no last byte 0 behind others)."""
    if begin == end:
        return True
    varints = window[begin:end]
    wrong = np.uint8(varints[-1] & 0x80)
    for i in range(len(varints) - 1):
        wrong = np.uint8(wrong | ((varints[i] >= 0x80) & (varints[i + 1] == 0)))
    for i in range(len(varints) - 8):
        first, second = varints[i] & varints[i + 1] & varints[i + 2], varints[i + 3] & varints[i + 4] & varints[i + 5]
        wrong = np.uint8(wrong | (first & second & varints[i + 6] & varints[i + 7] & varints[i + 8] & 0x80))
    return bool(wrong == 0)


@compiled
def _all_below(window: Bytes, begin: int, end: int, limit: int) -> bool:
    """Whether every byte is smaller than `limit`, a power of two."""
    seen = np.uint8(0)
    for byte in window[begin:end]:
        seen = np.uint8(seen | byte)
    return bool(seen < limit)


@compiled
def _copy(window: Bytes, spans: npt.NDArray[np.int64], sizes: Sizes, content: Bytes) -> bool:
    """Fill `content` with the four pieces of a sequence; whether its masked positions are valid."""
    length, token_bytes, masked, masked_id_bytes, _ = sizes
    at = copy_bytes(window, spans[_IDS, 0], token_bytes, content, 0)
    at = copy_bytes(window, spans[_SEGMENTS, 0], length, content, at)
    at = copy_bytes(window, spans[_MASKED_IDS, 0], masked_id_bytes, content, at)
    unused = (spans[_WEIGHTS, 1] - spans[_WEIGHTS, 0]) // 4 - masked
    position, end = spans[_POSITIONS, 0], spans[_POSITIONS, 1] - unused
    for i in range(at, at + 2 * masked, 2):
        if position >= end:
            return False
        value = int(window[position])
        if value < 0x80:
            position += 1
        else:
            value, position = _long_varint(window, position, end)
        if value >= length:
            return False
        content[i], content[i + 1] = value & 0xFF, (value >> 8) & 0xFF
    return bool(position == end and _all_below(window, end, end + unused, 0x80))


@compiled
def copy_bytes(source: Bytes, begin: int, size: int, target: Bytes, at: int) -> int:
    """Copy `source[begin : begin + size]` to `target[at:]`; the end of the copy there."""
    copy, original = target[at : at + size], source[begin : begin + size]
    for i in range(len(copy)):
        copy[i] = original[i]
    return at + size
