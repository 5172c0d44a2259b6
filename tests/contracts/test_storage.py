"""What every `Storage` promises, held against the fake and the real ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from packing.adapters import open_storage
from packing.adapters.local import LocalStorage
from packing.errors import ObjectChangedError, ObjectNotFoundError, StorageError
from packing.in_memory import MemoryStorage
from packing.overlay import Overlay
from packing.ports import Storage


@pytest.fixture(params=["memory", "overlay", "local", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, str]:
    """A storage, and an empty folder of it."""
    if request.param == "memory":
        return MemoryStorage(), "/folder"
    if request.param == "overlay":
        return Overlay(MemoryStorage()), "/folder"
    if request.param == "local":
        return LocalStorage(), str(tmp_path / "folder")
    request.getfixturevalue("aws_environment")
    return open_storage(), f"s3://raw/{tmp_path.name}"


def test_what_is_written_is_read_whole_and_in_ranges(place: tuple[Storage, str]) -> None:
    storage, folder = place
    content = os.urandom(100_000)
    info = storage.write(f"{folder}/a/b.bin", content)
    assert (info.uri, info.size) == (f"{folder}/a/b.bin", len(content))
    assert storage.read(info.uri) == content
    assert storage.read(info.uri, start=10) == content[10:]
    assert storage.read(info.uri, start=10, size=5) == content[10:15]
    assert storage.read(info.uri, start=len(content) - 1) == content[-1:]
    assert storage.read(info.uri, start=len(content)) == b""
    assert storage.read(info.uri, start=3, size=0) == b""
    assert storage.head(info.uri) == info


def test_every_kind_of_buffer_is_written(place: tuple[Storage, str]) -> None:
    storage, folder = place
    array = np.frombuffer(b"xabcx", np.uint8)[1:4]
    for data in (b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4], array):
        storage.write(f"{folder}/a", data)
        assert storage.read(f"{folder}/a") == b"abc"


def test_a_buffer_is_filled_exactly(place: tuple[Storage, str]) -> None:
    storage, folder = place
    content = os.urandom(100_000)
    info = storage.write(f"{folder}/a", content)
    for start, size in ((0, 100_000), (10, 5), (99_999, 1), (0, 0), (100_000, 0)):
        for room in (bytearray(b"x" * (size + 2)), np.full(size + 2, ord("x"), np.uint8)):
            storage.read_into(info.uri, memoryview(room)[1:-1], start=start, etag=info.etag)
            assert bytes(room) == b"x" + content[start : start + size] + b"x"


def test_a_buffer_is_filled_from_one_version_or_not_at_all(place: tuple[Storage, str]) -> None:
    storage, folder = place
    first = storage.write(f"{folder}/a", b"first")
    storage.write(f"{folder}/a", b"other")
    for size in (0, 1, 5):
        with pytest.raises(ObjectChangedError, match=f"{folder}/a"):
            storage.read_into(first.uri, bytearray(size), etag=first.etag)


def test_an_empty_object_is_an_object(place: tuple[Storage, str]) -> None:
    storage, folder = place
    assert storage.write(f"{folder}/empty", b"").size == 0
    assert storage.read(f"{folder}/empty") == b""
    assert [info.uri for info in storage.list(folder)] == [f"{folder}/empty"]


def test_a_listing_is_sorted_complete_and_of_the_folder_only(place: tuple[Storage, str]) -> None:
    storage, folder = place
    names = ["b", "a/z", "a/b/c", "a-b", "ab"]
    written = {storage.write(f"{folder}/{name}", name.encode()) for name in names}
    storage.write(f"{folder}-beside/x", b"x")
    listed = storage.list(folder)
    assert listed == sorted(written, key=lambda info: info.uri)
    assert storage.list(f"{folder}/a") == [info for info in listed if info.uri.startswith(f"{folder}/a/")]
    assert storage.list(f"{folder}/nothing") == []
    assert storage.list(f"{folder}/") == listed


def test_another_content_has_another_etag_and_a_pinned_read_refuses_it(place: tuple[Storage, str]) -> None:
    storage, folder = place
    first = storage.write(f"{folder}/a", b"first")
    assert storage.read(first.uri, etag=first.etag) == b"first"
    second = storage.write(f"{folder}/a", b"other")
    assert second.etag != first.etag
    with pytest.raises(ObjectChangedError, match=f"{folder}/a"):
        storage.read(first.uri, etag=first.etag)
    assert storage.read(first.uri, etag=second.etag) == b"other"


def test_what_is_not_there_is_named(place: tuple[Storage, str]) -> None:
    storage, folder = place
    storage.write(f"{folder}/a", b"abc")
    storage.write(f"{folder}/sub/b", b"abc")
    for name in ("missing", "sub", "a/b"):
        for call in (
            storage.head,
            storage.read,
            lambda uri: storage.read(uri, size=0),
            lambda uri: storage.read_into(uri, bytearray()),
            lambda uri: storage.read_into(uri, bytearray(1)),
        ):
            with pytest.raises(ObjectNotFoundError, match=f"{folder}/{name}"):
                call(f"{folder}/{name}")


def test_what_is_deleted_is_gone_and_nothing_else(place: tuple[Storage, str]) -> None:
    storage, folder = place
    for name in ("a", "a-b", "sub/a", "sub/b", "only/one"):
        storage.write(f"{folder}/{name}", name.encode())
    for name in ("a", "sub/a", "only/one"):
        storage.delete(f"{folder}/{name}")
        with pytest.raises(ObjectNotFoundError):
            storage.head(f"{folder}/{name}")
    assert [info.uri for info in storage.list(folder)] == [f"{folder}/a-b", f"{folder}/sub/b"]
    storage.write(f"{folder}/only/one", b"again")
    assert storage.read(f"{folder}/only/one") == b"again"


def test_deleting_what_is_not_there_changes_nothing(place: tuple[Storage, str]) -> None:
    storage, folder = place
    for name in ("a", "sub/b"):
        storage.write(f"{folder}/{name}", b"abc")
    before = storage.list(folder)
    for name in ("missing", "sub/missing", "missing/c"):
        storage.delete(f"{folder}/{name}")
    assert storage.list(folder) == before


@pytest.mark.parametrize(("start", "size"), [(0, 4), (2, 2), (4, None), (9, 1), (9, 0), (-1, 1), (1, -1)])
def test_a_range_past_the_end_is_an_error_and_never_short(
    place: tuple[Storage, str], start: int, size: int | None
) -> None:
    storage, folder = place
    storage.write(f"{folder}/a", b"abc")
    with pytest.raises(StorageError, match=f"{folder}/a: .*truncated"):
        storage.read(f"{folder}/a", start=start, size=size)
    if size is not None and size >= 0:
        with pytest.raises(StorageError, match=f"{folder}/a: .*truncated"):
            storage.read_into(f"{folder}/a", bytearray(size), start=start)


def test_names_with_odd_characters_survive(place: tuple[Storage, str]) -> None:
    storage, folder = place
    names = ["with space", "per%20cent", "plus+and&", "ünïcode", "a#b?c"]
    for name in names:
        storage.write(f"{folder}/{name}", name.encode())
    assert sorted(info.uri for info in storage.list(folder)) == sorted(f"{folder}/{name}" for name in names)
    assert all(storage.read(f"{folder}/{name}") == name.encode() for name in names)


@pytest.mark.slow
def test_an_object_beyond_a_single_request_is_one_object(aws_environment: None, tmp_path: Path) -> None:  # noqa: ARG001
    from packing.adapters.s3_upload import SINGLE_PUT_BYTES

    storage, uri = open_storage(), f"s3://raw/{tmp_path.name}/large"
    content = os.urandom(1024) * (SINGLE_PUT_BYTES // 1024 + 1)
    info = storage.write(uri, content)
    assert info == storage.head(uri)
    assert storage.read(uri, etag=info.etag) == content
    buffer = np.empty(len(content), np.uint8)
    storage.read_into(uri, buffer, etag=info.etag)
    assert buffer.tobytes() == content


def test_the_fake_counts_a_buffer_filled_as_a_read() -> None:
    storage = MemoryStorage()
    storage.write("/a", b"abc")
    storage.read_into("/a", bytearray(2), start=1)
    assert storage.requests == [("write", "/a"), ("read", "/a")]
