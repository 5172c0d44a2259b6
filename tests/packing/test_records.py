"""Records out of chunks: whole, in order, each exactly once, and the bad ones named."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import RecordError
from packing.reader import Chunk
from packing.records import Stop, take_records
from packing.sequences import SequenceBuffer
from packing.tfrecord import MAX_RECORD_BYTES, encode_record, masked_crc
from tests.builders import raw_example, raw_shard

SIZES = [(20, 3), (5, 1), (64, 10), (20, 2), (33, 5), (8, 1)]
SHARD = raw_shard(SIZES)
OFFSETS = [0, *np.cumsum([len(raw_shard([size], seed=0)) for size in SIZES]).tolist()]


def chunks_of(data: bytes, size: int, headroom: int) -> Iterator[Chunk]:
    for offset in range(0, len(data), size):
        own = np.frombuffer(data[offset : offset + size], np.uint8)
        yield Chunk(np.concatenate((np.full(headroom, 0xAA, np.uint8), own)), headroom, offset)


def refuse(error: RecordError) -> None:
    raise error


@given(st.integers(9, 4000), st.sampled_from([0, 100, 10_000]))
def test_records_are_taken_however_the_content_is_cut(size: int, headroom: int) -> None:
    buffer = SequenceBuffer()
    stops = list(take_records("s", chunks_of(SHARD, size, headroom), buffer, refuse))
    assert stops == [Stop(len(SIZES), len(SHARD))]
    sequences = buffer.sequences()
    assert list(zip(sequences.lengths.tolist(), sequences.masked.tolist(), strict=True)) == SIZES
    whole = SequenceBuffer()
    list(take_records("s", chunks_of(SHARD, len(SHARD), 0), whole, refuse))
    assert sequences.content.tobytes() == whole.sequences().content.tobytes()
    assert sequences.offsets.tolist() == whole.sequences().offsets.tolist()
    assert sequences.offsets[0] == 0


@given(st.integers(9, 4000), st.integers(1, 4))
def test_segments_do_not_depend_on_the_chunks(size: int, records: int) -> None:
    """A segment is the records that lie wholly within its bytes."""
    bytes_of = max(length for _, length in _frames()) * records + 16 * records
    buffer = SequenceBuffer()
    found = []
    for stop in take_records("s", chunks_of(SHARD, size, 64), buffer, refuse, segment_bytes=bytes_of):
        found.append((stop, len(buffer)))
        buffer.clear()
    starts = [Stop(0, 0), *(stop for stop, _ in found[:-1])]
    assert found[-1][0] == Stop(len(SIZES), len(SHARD))
    for start, (stop, count) in zip(starts, found, strict=True):
        assert count == stop.record - start.record >= 1
        assert stop.offset - start.offset <= bytes_of
    for (stop, _), (after, _) in pairwise(found):
        assert after.offset > stop.offset
    whole = chunks_of(SHARD, len(SHARD), 0)
    assert [stop for stop, _ in found] == list(
        take_records("s", whole, SequenceBuffer(), refuse, segment_bytes=bytes_of)
    )


def test_taking_starts_where_it_is_told() -> None:
    buffer = SequenceBuffer()
    (middle, *_) = take_records("s", chunks_of(SHARD, 999, 9), buffer, refuse, segment_bytes=len(SHARD) // 2)
    buffer.clear()
    rest = [
        Chunk(chunk.buffer, chunk.headroom, chunk.offset + middle.offset)
        for chunk in chunks_of(SHARD[middle.offset :], 999, 9)
    ]
    assert list(take_records("s", iter(rest), buffer, refuse, start=middle)) == [Stop(len(SIZES), len(SHARD))]
    assert len(buffer) == len(SIZES) - middle.record
    assert int(buffer.sequences().offsets[0]) == middle.offset


@given(st.integers(9, 3000), st.integers(0, len(SIZES) - 1), st.sampled_from(["payload", "content"]))
def test_a_bad_record_is_named_and_can_be_left_out(size: int, bad: int, kind: str) -> None:
    records = [encode_record(raw_example(*own)) for own in SIZES]
    if kind == "payload":
        damaged = bytearray(records[bad])
        damaged[40] ^= 1
        records[bad] = bytes(damaged)
    else:
        records[bad] = encode_record(b"\x0a\x00")
    data = b"".join(records)
    errors: list[RecordError] = []
    buffer = SequenceBuffer()
    stops = list(take_records("s", chunks_of(data, size, 50), buffer, errors.append))
    assert stops == [Stop(len(SIZES), len(data))]
    assert [(error.record, error.offset) for error in errors] == [(bad, sum(map(len, records[:bad])))]
    kept = [own for number, own in enumerate(SIZES) if number != bad]
    assert buffer.sequences().lengths.tolist() == [length for length, _ in kept]
    with pytest.raises(RecordError, match=f"s: record {bad} at offset "):
        list(take_records("s", chunks_of(data, size, 50), SequenceBuffer(), refuse))


@given(st.integers(9, 3000), st.integers(1, len(SHARD) - 1))
def test_a_cut_shard_is_refused_where_it_is_cut(size: int, cut: int) -> None:
    ends = [offset for offset, _ in _frames()] + [len(SHARD)]
    buffer = SequenceBuffer()
    if cut in ends:
        return
    with pytest.raises(RecordError, match="the shard is cut off") as caught:
        list(take_records("s", chunks_of(SHARD[:cut], size, 50), buffer, refuse))
    assert caught.value.offset == max(end for end in ends if end < cut)
    assert len(buffer) == caught.value.record


def _frames() -> Iterator[tuple[int, int]]:
    offset = 0
    while offset < len(SHARD):
        (length,) = struct.unpack_from("<Q", SHARD, offset)
        yield offset, length
        offset += length + 16


@pytest.mark.parametrize("length", [2**60, MAX_RECORD_BYTES])
def test_a_huge_length_with_a_valid_crc_is_refused_at_once(length: int) -> None:
    header = struct.pack("<Q", length)
    data = SHARD + header + struct.pack("<I", masked_crc(header)) + bytes(100)
    asked = 0

    def chunks() -> Iterator[Chunk]:
        nonlocal asked
        for chunk in chunks_of(data, len(SHARD) + 12, 0):
            asked += 1
            yield chunk

    with pytest.raises(RecordError, match=f"a length of {length}") as caught:
        list(take_records("s", chunks(), SequenceBuffer(), refuse))
    assert (caught.value.record, caught.value.offset, asked) == (len(SIZES), len(SHARD), 1)


def test_bytes_that_are_nothing_are_refused_as_a_record() -> None:
    with pytest.raises(RecordError, match="s: record 0 at offset 0: expected CRC"):
        list(take_records("s", chunks_of(b"no tfrecord at all", 5, 0), SequenceBuffer(), refuse))


def test_nothing_has_no_records() -> None:
    assert list(take_records("s", chunks_of(b"", 5, 0), SequenceBuffer(), refuse)) == []
