"""What the local adapter makes of file systems: half-written files, links, missing permissions."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from packing.adapters.local import LocalStorage
from packing.errors import ObjectChangedError, StorageError


def test_a_reader_sees_the_old_or_the_new_content_and_never_a_mixture(tmp_path: Path) -> None:
    storage, uri = LocalStorage(), str(tmp_path / "object")
    contents = [bytes([number]) * 300_000 for number in (1, 2)]
    storage.write(uri, contents[0])
    done = threading.Event()

    def write() -> None:
        for number in range(100):
            storage.write(uri, contents[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        seen.append(storage.read(uri))
    writer.join()
    assert seen
    assert set(seen) <= set(contents)


def test_what_a_broken_off_write_left_is_not_listed(tmp_path: Path) -> None:
    storage = LocalStorage()
    written = storage.write(str(tmp_path / "object"), b"x")
    (tmp_path / ".stowage-0123456789abcdef").write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"")
    assert [info.uri for info in storage.list(str(tmp_path))] == [str(tmp_path / ".hidden"), written.uri]


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    storage = LocalStorage()
    folder = tmp_path / "folder"
    kept = storage.write(str(folder / "kept"), b"x")
    with pytest.raises(StorageError, match=str(folder)):
        storage.write(str(folder), b"y")
    with pytest.raises(StorageError, match="kept/below"):
        storage.write(f"{kept.uri}/below", b"y")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "kept"]


def test_a_folder_goes_with_its_last_file(tmp_path: Path) -> None:
    storage = LocalStorage()
    uris = [storage.write(str(tmp_path / "folder/below" / name), b"x").uri for name in ("a", "b")]
    storage.delete(uris[0])
    for no_file in (str(tmp_path / "folder/below"), f"{uris[1]}/b"):
        storage.delete(no_file)
    assert [path.name for path in (tmp_path / "folder/below").iterdir()] == ["b"]
    storage.delete(uris[1])
    assert list((tmp_path / "folder").iterdir()) == []


def test_files_are_written_beside_others_that_are_deleted(tmp_path: Path) -> None:
    storage, done = LocalStorage(), threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            storage.delete(storage.write(str(tmp_path / "folder/passing"), b"x").uri)

    passing = threading.Thread(target=come_and_go)
    passing.start()
    try:
        for number in range(300):
            uri = storage.write(str(tmp_path / "folder/kept"), bytes([number % 256])).uri
            assert storage.read(uri) == bytes([number % 256])
            storage.delete(uri)
    finally:
        done.set()
        passing.join()


def test_a_file_that_may_not_be_deleted_is_named(tmp_path: Path) -> None:
    """A name that is too long stands for every reason other than that there is no such file."""
    uri = str(tmp_path / ("x" * 300))
    with pytest.raises(StorageError, match=uri):
        LocalStorage().delete(uri)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="naming open files needs /proc")
def test_content_is_on_disk_before_its_name_and_both_before_the_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tmp_path / "new/folder/object"
    flushed = []
    fsync = os.fsync

    def record(handle: int) -> None:
        flushed.append((str(Path(f"/proc/self/fd/{handle}").readlink()), uri.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    LocalStorage().write(str(uri), b"x")
    *folders, (temporary, _), last = flushed
    assert folders == [(str(tmp_path), False), (str(tmp_path / "new"), False)]
    assert Path(temporary).parent == uri.parent
    assert flushed[-2][1] is False
    assert last == (str(uri.parent), True)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"x" * 3_000_000)
    done = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not done.is_set():
                file.write(b"y")

    def read_often() -> None:
        for _ in range(1000):
            LocalStorage().read_into(str(path), bytearray(3_000_000))

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(ObjectChangedError, match=f"{path}: .*after reading"):
            read_often()
    finally:
        done.set()
        writer.join()


def test_files_have_the_permissions_that_the_user_gives_new_files(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    LocalStorage().write(str(tmp_path / "object"), b"x")
    assert stat.S_IMODE((tmp_path / "object").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_linked_folders_are_followed_and_a_broken_link_is_an_error(tmp_path: Path) -> None:
    storage = LocalStorage()
    storage.write(str(tmp_path / "elsewhere/a"), b"x")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/link").symlink_to(tmp_path / "elsewhere")
    assert [info.uri for info in storage.list(str(tmp_path / "source"))] == [str(tmp_path / "source/link/a")]
    (tmp_path / "source/broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match=str(tmp_path / "source/broken")):
        storage.list(str(tmp_path / "source"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_an_error_and_not_empty(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with pytest.raises(StorageError, match=f"Permission denied: '{closed}'"):
        LocalStorage().list(str(tmp_path))
