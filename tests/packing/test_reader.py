"""Chunks come in order and whole, a bounded number ahead, and nothing goes on after the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.adapters.local import LocalStorage
from packing.errors import ObjectChangedError, ObjectNotFoundError, StorageError
from packing.in_memory import MemoryStorage
from packing.ports import Buffer
from packing.reader import Chunk, read_chunks

CONTENT = os.urandom(10_000)
WAIT = 20


class Watched(MemoryStorage):
    """Calls `before` with the offset of each range; `started` and `ended` are the offsets in the order of events."""

    def __init__(self, before: Callable[[int], object] = lambda _: None) -> None:
        super().__init__()
        self.write("/a", CONTENT)
        self.started: list[int] = []
        self.ended: list[int] = []
        self.moved = threading.Condition()
        self._before = before

    def read_into(self, uri: str, buffer: Buffer, *, start: int = 0, etag: str | None = None) -> None:
        with self.moved:
            self.started.append(start)
        try:
            self._before(start)
            super().read_into(uri, buffer, start=start, etag=etag)
        finally:
            with self.moved:
                self.ended.append(start)
                self.moved.notify_all()

    def wait_for(self, ended: int) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: len(self.ended) >= ended, WAIT)


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read_")]


def data(chunk: Chunk) -> bytes:
    return chunk.buffer[chunk.headroom :].tobytes()


@given(st.data(), st.integers(1, 4000), st.integers(1, 5), st.integers(0, 50))
def test_the_chunks_are_the_range(draw: st.DataObject, chunk_bytes: int, in_flight: int, headroom: int) -> None:
    start = draw.draw(st.integers(0, len(CONTENT)))
    stop = draw.draw(st.integers(start, min(len(CONTENT), start + 20 * chunk_bytes)))
    storage = Watched()
    read, offset = b"", start
    for chunk in read_chunks(
        storage,
        "/a",
        start=start,
        stop=stop,
        etag=storage.head("/a").etag,
        chunk_bytes=chunk_bytes,
        in_flight=in_flight,
        headroom=headroom,
    ):
        assert (chunk.offset, chunk.headroom) == (offset, headroom)
        chunk.buffer[:headroom] = 0
        read += data(chunk)
        offset += len(data(chunk))
        assert len(data(chunk)) == chunk_bytes or offset == stop
    assert read == CONTENT[start:stop]
    assert storage.started == sorted(storage.started)
    assert len(storage.started) == -(-(stop - start) // chunk_bytes)


def test_ranges_are_fetched_side_by_side() -> None:
    barrier = threading.Barrier(4)
    storage = Watched(lambda _: barrier.wait(WAIT))
    chunks = read_chunks(storage, "/a", start=0, stop=8000, etag=None, chunk_bytes=1000, in_flight=4)
    assert b"".join(map(data, chunks)) == CONTENT[:8000]


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_is_fetched_ahead_than_was_asked_for_and_a_chunk_stays_until_the_next(in_flight: int) -> None:
    storage = Watched()
    places = set()
    options = {"chunk_bytes": 500, "in_flight": in_flight}
    for number, chunk in enumerate(read_chunks(storage, "/a", start=0, stop=10_000, etag=None, **options)):
        ahead = min(20, number + 1 + in_flight)
        storage.wait_for(ahead)
        assert len(storage.started) == ahead
        assert data(chunk) == CONTENT[500 * number : 500 * number + 500]
        places.add(chunk.buffer.ctypes.data)
    assert number == 19
    assert len(places) == in_flight + 1


def test_later_reads_use_the_same_memory_and_reads_at_once_do_not() -> None:
    storage = Watched()

    def chunks() -> list[tuple[int, bytes]]:
        read = read_chunks(storage, "/a", start=0, stop=6000, etag=None, chunk_bytes=1013, in_flight=2)
        return [(chunk.buffer.ctypes.data, data(chunk)) for chunk in read]

    assert {place for place, _ in chunks()} == {place for place, _ in chunks()}
    options = {"start": 0, "stop": 6000, "etag": None, "chunk_bytes": 1013}
    pairs = zip(read_chunks(storage, "/a", **options), read_chunks(storage, "/a", **options), strict=True)
    for one, other in pairs:
        assert not np.shares_memory(one.buffer, other.buffer)
        assert data(one) == data(other)


@pytest.mark.parametrize("bad", [0, 3000, 9000])
def test_an_error_comes_in_its_place_and_ends_the_others(bad: int) -> None:
    def fail(offset: int) -> None:
        if offset == bad:
            raise StorageError(f"at {offset}")

    storage = Watched(fail)
    seen: list[bytes] = []
    chunks = read_chunks(storage, "/a", start=0, stop=10_000, etag=None, chunk_bytes=1000, in_flight=3)
    with pytest.raises(StorageError, match=f"^at {bad}$"):
        seen.extend(map(data, chunks))
    assert b"".join(seen) == CONTENT[:bad]
    assert max(storage.started) <= bad + 2000
    assert sorted(storage.started) == sorted(storage.ended)
    assert reading_threads() == []


@pytest.mark.parametrize("ending", [GeneratorExit, KeyboardInterrupt])
def test_a_reader_that_is_left_early_reads_no_further(ending: type[BaseException]) -> None:
    storage = Watched()
    chunks = read_chunks(storage, "/a", start=0, stop=10_000, etag=None, chunk_bytes=100, in_flight=3)
    next(chunks)
    assert reading_threads()
    with pytest.raises(ending):
        chunks.throw(ending)
    assert reading_threads() == []
    assert sorted(storage.started) == sorted(storage.ended)
    assert len(storage.started) <= 4


def test_what_is_not_there_or_changed_or_short_is_an_error(tmp_path: Path) -> None:
    for storage, folder in ((MemoryStorage(), "/folder"), (LocalStorage(), str(tmp_path))):
        info = storage.write(f"{folder}/a", CONTENT)
        with pytest.raises(ObjectNotFoundError, match=f"{folder}/b"):
            list(read_chunks(storage, f"{folder}/b", start=0, stop=1, etag=None))
        with pytest.raises(StorageError, match=f"{folder}/a: .*truncated"):
            list(read_chunks(storage, info.uri, start=0, stop=10_001, etag=info.etag, chunk_bytes=999))
        chunks = read_chunks(storage, info.uri, start=0, stop=10_000, etag=info.etag, chunk_bytes=100, in_flight=2)
        read = [data(next(chunks))]
        storage.write(info.uri, bytes(10_000))
        with pytest.raises(ObjectChangedError, match=f"{folder}/a"):
            read.extend(map(data, chunks))
        assert b"".join(read) == CONTENT[: 100 * len(read)]


def test_a_file_is_read_in_chunks(tmp_path: Path) -> None:
    storage = LocalStorage()
    info = storage.write(str(tmp_path / "a"), CONTENT)
    chunks = [
        (chunk.offset, data(chunk))
        for chunk in read_chunks(storage, info.uri, start=7, stop=info.size, etag=info.etag, chunk_bytes=1000)
    ]
    assert b"".join(piece for _, piece in chunks) == CONTENT[7:]
    assert all(later - earlier == 1000 for (earlier, _), (later, _) in pairwise(chunks))
