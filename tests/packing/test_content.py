"""What a raw shard holds, whatever its compression and however it is cut into chunks."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing import content
from packing.content import read_content
from packing.errors import ContentError, ObjectChangedError
from packing.tfrecord import encode_record
from packing.types import RawShard
from tests.builders import store_with

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "two gzip members": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
}

records = st.lists(st.binary(max_size=300), max_size=8).map(lambda own: b"".join(map(encode_record, own)))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few records are many chunks."""
    monkeypatch.setattr(content, "CHUNK_BYTES", 100)
    monkeypatch.setattr(content, "HEADROOM_BYTES", 16)


def read(stored: bytes, **options: object) -> bytes:
    storage = store_with({"a": stored})
    info = storage.head("/raw/a")
    shard = RawShard("a", info.uri, info.size, info.etag)
    found = b""
    offset = None
    for chunk in read_content(storage, shard, **options):  # type: ignore[arg-type]  # options of several types
        assert offset in (None, chunk.offset)
        assert 0 < len(chunk.data) <= 100
        assert chunk.headroom >= 16
        offset = chunk.offset + len(chunk.data)
        found += chunk.data.tobytes()
    return found


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(data=records, cut=st.data())
def test_the_content_and_any_part_of_it_is_read(compression: str, data: bytes, cut: st.DataObject) -> None:
    stored = COMPRESSIONS[compression](data)
    hasher = hashlib.sha256()
    assert read(stored, hasher=hasher) == data
    assert hasher.digest() == hashlib.sha256(stored).digest()
    start = cut.draw(st.integers(0, len(data)))
    stop = cut.draw(st.integers(start, len(data)))
    assert read(stored, start=start, stop=stop) == data[start:stop]


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
@given(data=st.binary(min_size=1, max_size=2000), where=st.data())
def test_a_damaged_or_cut_stream_is_refused(
    compress: Callable[[bytes], bytes], data: bytes, where: st.DataObject
) -> None:
    stored = compress(data)
    with pytest.raises(ContentError, match="it ends early"):
        read(stored[: where.draw(st.integers(2, len(stored) - 1))])
    with pytest.raises(ContentError, match="a damaged one"):
        read(stored + b"more")
    flipped = bytearray(stored)
    flipped[-1] ^= 1
    with pytest.raises(ContentError, match="a damaged one"):
        read(bytes(flipped))


@pytest.mark.parametrize("size", [0x1F + 0x8B * 256, 0x78 + 0x9C * 256, 0x78 + 0x01 * 256])
def test_a_plain_record_whose_length_looks_like_a_compressed_header_stays_plain(size: int) -> None:
    stored = encode_record(bytes(size))
    assert read(stored) == stored


def test_highly_compressible_content_comes_in_chunks() -> None:
    data = bytes(1_000_000)
    assert read(gzip.compress(data)) == data


def test_a_replaced_shard_is_refused() -> None:
    storage = store_with({"a": b"x" * 500})
    shard = RawShard("a", "/raw/a", 500, "another")
    with pytest.raises(ObjectChangedError):
        list(read_content(storage, shard))


def test_the_headroom_belongs_to_the_reader() -> None:
    storage = store_with({"a": bytes(range(250))})
    info = storage.head("/raw/a")
    found = []
    for chunk in read_content(storage, RawShard("a", info.uri, info.size, info.etag)):
        chunk.buffer[: chunk.headroom] = 255
        found.append(chunk.data.copy())
    assert np.concatenate(found).tobytes() == bytes(range(250))
