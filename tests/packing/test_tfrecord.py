from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import RecordError
from packing.tfrecord import FRAME_BYTES, decompress, encode_record, masked_crc, read_record_at, read_records

payloads = st.lists(st.binary(max_size=200), min_size=1, max_size=5)


def frame(records: list[bytes]) -> bytes:
    return b"".join(encode_record(record) for record in records)


@given(payloads)
def test_what_is_written_is_read(records: list[bytes]) -> None:
    data = frame(records)
    read = list(read_records(data, "shard"))
    assert [payload for _, payload in read] == records
    assert all(read_record_at(data, offset, len(payload)) == payload for offset, payload in read)


@given(payloads, st.data())
def test_any_flipped_bit_is_found(records: list[bytes], data: st.DataObject) -> None:
    content = bytearray(frame(records))
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RecordError, match=r"^shard: record \d+ at offset \d+: expected .*, found "):
        list(read_records(bytes(content), "shard"))


@given(payloads, st.data())
def test_a_cut_inside_a_record_is_found_at_that_record(records: list[bytes], data: st.DataObject) -> None:
    content = frame(records)
    last_offset = len(content) - len(records[-1]) - FRAME_BYTES
    cut = data.draw(st.integers(last_offset + 1, len(content) - 1))
    with pytest.raises(RecordError) as caught:
        list(read_records(content[:cut], "shard"))
    assert (caught.value.record, caught.value.offset) == (len(records) - 1, last_offset)


def test_a_huge_length_with_a_valid_crc_is_refused_without_reading_that_far() -> None:
    length = struct.pack("<Q", 2**60)
    content = length + struct.pack("<I", masked_crc(length)) + b"x" * 100
    with pytest.raises(RecordError, match="cut off"):
        list(read_records(content, "shard"))


@given(payloads)
def test_compression_is_told_by_content(records: list[bytes]) -> None:
    data = frame(records)
    for stored in (data, gzip.compress(data), zlib.compress(data), gzip.compress(data[:7]) + gzip.compress(data[7:])):
        assert decompress(stored, "shard") == data


@pytest.mark.parametrize("size", [0x178, 0x5E78, 0x9C78, 0xDA78, 0x8B1F])
def test_a_plain_record_whose_length_looks_like_a_compressed_header_stays_plain(size: int) -> None:
    data = encode_record(b"a" * size)
    assert data[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b")
    assert decompress(data, "shard") == data


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_cut_compressed_stream_is_refused_at_the_record_where_it_ends(compress: Callable[[bytes], bytes]) -> None:
    records = [os.urandom(1000), os.urandom(1000)]
    stored = compress(frame(records))
    found = set()
    for cut in range(3, len(stored), 7):
        with pytest.raises(RecordError, match="expected a complete compressed stream") as caught:
            decompress(stored[:cut], "shard")
        found.add((caught.value.record, caught.value.offset))
    assert {(0, 0), (1, 1000 + FRAME_BYTES)} <= found


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_what_follows_a_compressed_stream_is_refused(compress: Callable[[bytes], bytes]) -> None:
    data = frame([b"a" * 1000])
    with pytest.raises(RecordError) as caught:
        decompress(compress(data) + b"more", "shard")
    assert (caught.value.record, caught.value.offset) == (1, len(data))


def test_bytes_that_are_nothing_are_refused_as_a_record() -> None:
    with pytest.raises(RecordError, match="not a TFRecord"):
        list(read_records(decompress(b"just some text, no TFRecord", "shard"), "shard"))


@pytest.mark.slow
def test_tensorflow_reads_what_we_write(tmp_path: object) -> None:
    import tensorflow as tf

    records = [b"", b"one", b"x" * 100_000]
    path = f"{tmp_path}/a.tfrecord"
    with open(path, "wb") as file:  # noqa: PTH123 - TensorFlow takes the same text
        file.write(frame(records))
    assert list(tf.data.TFRecordDataset(path).as_numpy_iterator()) == records
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        assert file.read() == frame(records)
