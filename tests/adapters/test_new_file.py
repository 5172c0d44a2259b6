"""What the local adapter writes past the page cache is what it was given, whatever the file system makes of that."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

from packing.adapters.local import LocalStorage
from packing.adapters.new_file import DIRECT_BYTES, STEP_BYTES
from packing.errors import StorageError

O_DIRECT = getattr(os, "O_DIRECT", 0)
SIZES = (0, 1, STEP_BYTES, DIRECT_BYTES - 1, DIRECT_BYTES, DIRECT_BYTES + 1, DIRECT_BYTES + STEP_BYTES + 4097)

os_write = os.write


def content_of(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def is_direct(handle: int) -> bool:
    return bool(fcntl.fcntl(handle, fcntl.F_GETFL) & O_DIRECT)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_holds_what_was_written(tmp_path: Path, size: int) -> None:
    written = LocalStorage().write(str(tmp_path / "object"), content_of(size))
    assert written.size == size
    assert (tmp_path / "object").read_bytes() == content_of(size)


@pytest.mark.skipif(not O_DIRECT, reason="this system always writes through the page cache")
@pytest.mark.parametrize("refused_from", [0, 1, 3])
@pytest.mark.parametrize("written", [None, 0, 512, STEP_BYTES - 1])
def test_what_a_file_system_does_not_write_directly_is_written_through_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused_from: int, written: int | None
) -> None:
    """From some write on it refuses direct ones, or writes less than it was given."""
    direct = []

    def write(handle: int, data: memoryview) -> int:
        if not is_direct(handle):
            return os_write(handle, data)
        direct.append(len(data))
        if len(direct) <= refused_from:
            return os_write(handle, data)
        if written is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fcntl.fcntl(handle, fcntl.F_SETFL, os.O_WRONLY)
        return os_write(handle, memoryview(data)[:written])

    monkeypatch.setattr(os, "write", write)
    content = content_of(SIZES[-1])
    LocalStorage().write(str(tmp_path / "object"), content)
    if not direct:
        pytest.skip(f"the file system of {tmp_path} does not write directly")
    assert direct == [STEP_BYTES] * (refused_from + 1)
    assert (tmp_path / "object").read_bytes() == content


@pytest.mark.parametrize("size", [1, DIRECT_BYTES])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    def write(_handle: int, _data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StorageError, match=str(tmp_path / "object")):
        LocalStorage().write(str(tmp_path / "object"), content_of(size))
    assert list(tmp_path.iterdir()) == []
