"""Objects as files of this machine: absolute paths, atomic and durable writes, ETags from size, time and inode."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path

from packing.adapters.new_file import fill
from packing.errors import ObjectChangedError, ObjectNotFoundError, StorageError
from packing.ports import Buffer, ObjectInfo, byte_view, check_range

_TEMPORARY = ".stowage-"
"""Prefix of files that are being written; a listing leaves them out."""
_ATTEMPTS = 100


class LocalStorage:
    """`Storage` over a file system."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All files below `prefix`; a folder that does not exist holds none, as with an S3 prefix."""
        with _translated(prefix):
            return sorted(self._walk(prefix), key=lambda info: info.uri)

    def _walk(self, folder: str) -> Iterator[ObjectInfo]:
        if not Path(folder).is_dir():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from self._walk(entry.path)
                elif not entry.name.startswith(_TEMPORARY):
                    yield _info(entry.path, entry.stat())

    def head(self, uri: str) -> ObjectInfo:
        with _translated(uri):
            status = os.stat(uri)  # noqa: PTH116 - the same call as for an open file
        if not stat.S_ISREG(status.st_mode):
            raise ObjectNotFoundError(f"{uri}: not a file")
        return _info(uri, status)

    def read(self, uri: str, *, start: int = 0, size: int | None = None, etag: str | None = None) -> bytes:
        with _unchanged(uri, etag) as (file, found):
            check_range(uri, start, size, found.size)
            file.seek(start)
            content = file.read(found.size - start if size is None else size)
        check_range(uri, start, size, start + len(content))
        return content

    def read_into(self, uri: str, buffer: Buffer, *, start: int = 0, etag: str | None = None) -> None:
        view = byte_view(buffer)
        with _unchanged(uri, etag) as (file, found):
            check_range(uri, start, len(view), found.size)
            file.seek(start)
            filled = file.readinto(view)
        check_range(uri, start, len(view), start + filled)

    def write(self, uri: str, data: Buffer) -> ObjectInfo:
        """Write beside the file, flush to disk and rename, so that a reader sees the old or the new content."""
        path = Path(uri)
        with _translated(uri):
            temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
            try:
                with _create(temporary) as file:
                    fill(file.fileno(), byte_view(data))
                    info = _info(uri, os.fstat(file.fileno()))
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)
        return info

    def delete(self, uri: str) -> None:
        """Remove the file, for good even after a crash, and its folder if it was the last one in there."""
        path = Path(uri)
        with suppress(ObjectNotFoundError), _translated(uri):
            path.unlink()
            _sync_folder(path.parent)
            with suppress(OSError):
                path.parent.rmdir()


@contextmanager
def _unchanged(uri: str, etag: str | None) -> Iterator[tuple[BufferedReader, ObjectInfo]]:
    """The file, open at the version `etag`, which must still be its version when the reader is done."""
    with _translated(uri), open(uri, "rb") as file:  # noqa: PTH123 - URIs are text
        found = _info(uri, os.fstat(file.fileno()))
        if etag is not None and found.etag != etag:
            raise ObjectChangedError(f"{uri}: expected ETag {etag}, found {found.etag}; it was replaced, run again")
        yield file, found
        after = _info(uri, os.fstat(file.fileno()))
    if after.etag != found.etag:
        raise ObjectChangedError(f"{uri}: expected ETag {found.etag}, found {after.etag} after reading; run again")


def _create(path: Path) -> FileIO:
    """A new file, unbuffered, and its folder as often as a `delete` beside this finds it empty and removes it."""
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):
            _make_folder(path.parent)
            return path.open("xb", buffering=0)
    raise StorageError(f"{path.parent}: removed {_ATTEMPTS} times while a file was made in it; run again")


def _make_folder(folder: Path) -> None:
    """Create what is missing of `folder`, to stay after a crash."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to disk; a rename that is only in memory is undone by a crash."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _info(uri: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(uri, status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}")


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
        raise ObjectNotFoundError(f"{uri}: no such file ({exc})") from exc
    except OSError as exc:
        raise StorageError(f"{uri}: {exc}; check the path and its permissions") from exc
