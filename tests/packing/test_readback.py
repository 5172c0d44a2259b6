from __future__ import annotations

import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import ContentError
from packing.readback import read_frames
from packing.sequence_digests import compare
from packing.tfrecord import MAX_RECORD_BYTES, encode_record, masked_crc, read_records


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(0, 10_000), max_size=6))
def test_frames_are_read_however_the_content_is_cut(payloads: list[bytes], places: list[int]) -> None:
    data = b"".join(map(encode_record, payloads))
    assert list(read_frames(cut(data, places))) == list(read_records(data, ""))


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_is_found_in_its_record(payloads: list[bytes], place: int, bit: int) -> None:
    data = bytearray(b"".join(map(encode_record, payloads)))
    place %= len(data)
    data[place] ^= 1 << bit
    ends = np.cumsum([len(payload) + 16 for payload in payloads])
    damaged = int(np.searchsorted(ends, place, side="right"))
    in_header = place - int(ends[damaged]) + len(payloads[damaged]) + 16 < 12
    if in_header:
        with pytest.raises(ContentError, match="length"):
            list(read_frames([bytes(data)]))
    else:
        found = [payload for _, payload in read_frames([bytes(data)])]
        assert [number for number, payload in enumerate(found) if isinstance(payload, ContentError)] == [damaged]
        assert len(found) == len(payloads)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.integers(1))
def test_content_that_is_cut_off_is_found(payloads: list[bytes], missing: int) -> None:
    *whole, last = [encode_record(payload) for payload in payloads]
    data = b"".join(whole) + last[: -(missing % (len(last) - 1)) or -1]
    with pytest.raises(ContentError, match="cut off"):
        list(read_frames([data]))


def test_a_length_that_cannot_be_is_not_waited_for() -> None:
    length = struct.pack("<Q", MAX_RECORD_BYTES - 15)
    data = length + struct.pack("<I", masked_crc(length)) + bytes(100)
    with pytest.raises(ContentError, match="a record of at most"):
        list(read_frames([data]))


DIGESTS = st.lists(st.integers(0, 6), max_size=12)


@given(DIGESTS, DIGESTS)
def test_collections_are_compared_as_counters_are(expected: list[int], found: list[int]) -> None:
    def digests(values: list[int]) -> np.ndarray:
        return np.array([(value % 3, value) for value in values], dtype=np.uint64).reshape(-1, 2)

    difference = compare(digests(expected), digests(found))
    missing, extra = Counter(expected) - Counter(found), Counter(found) - Counter(expected)
    assert (difference.missing, difference.extra) == (missing.total(), extra.total())
    assert difference.scarce.tolist() == [value in missing for value in expected]
    assert difference.abundant.tolist() == [value in extra for value in found]
