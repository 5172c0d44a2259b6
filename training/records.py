"""Shards as training reads them: where their content comes from, and their records in any order."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from packing.content import read_content
from packing.errors import ContentError, InputError, ObjectNotFoundError, VerificationError
from packing.ports import Buffer, Storage, byte_view
from packing.tfrecord import FRAME_BYTES, read_record_at, read_records
from packing.types import RawShard

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, eq=False)
class Shard:
    """One shard of a dataset; `bytes` and `sha256` are those of its uncompressed content.

    `raw` is the raw shard as listed, None for a packed one. `lengths` int32[examples] are the lengths of its sequences,
    None where nobody asked for them.
    """

    uri: str
    bytes: int
    examples: int
    sha256: str
    raw: RawShard | None = None
    lengths: npt.NDArray[np.int32] | None = None


class Records:
    """Random access to the serialized examples of one shard, in file order, of which each costs 8 bytes of memory.

    The file is mapped, not read: the page cache decides what stays in memory.
    """

    def __init__(self, data: bytes, offsets: npt.NDArray[np.int64]) -> None:
        """`offsets` int64[n + 1]: where the n frames begin, and the end."""
        self._data, self._offsets = data, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        start, stop = self._offsets[index : index + 2].tolist()
        return read_record_at(self._data, start, stop - start - FRAME_BYTES)


def content_of(storage: Storage, shard: Shard) -> Generator[Buffer]:
    """The uncompressed content of a shard, in pieces; raises VerificationError for a packed one that is not there."""
    if shard.raw:
        yield from raw_content(storage, shard.raw)
        return
    try:
        yield storage.read(shard.uri)
    except ObjectNotFoundError as exc:
        raise VerificationError(
            f"{shard.uri}: the manifest lists this shard, found no such object; refresh the dataset"
        ) from exc


def raw_content(storage: Storage, raw: RawShard) -> Generator[Buffer]:
    """The same of this version of a raw shard; raises InputError if it is compressed and damaged."""
    try:
        with closing(read_content(storage, raw)) as chunks:
            for chunk in chunks:
                yield chunk.data
    except ContentError as exc:
        raise InputError(f"{raw.uri}: {exc}; upload the shard again") from exc


def write_file(path: Path, content: Generator[Buffer]) -> tuple[bytes, str]:
    """Write a file, wholly or not at all; its content, mapped, and that content's SHA-256. Closes `content`."""
    hasher = hashlib.sha256()
    try:
        with closing(content), path.open("w+b") as file:
            for piece in content:
                view = byte_view(piece)
                hasher.update(view)
                file.write(view)
            file.flush()
            return _map(file), hasher.hexdigest()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def map_file(path: Path) -> bytes:
    """The file's content, mapped."""
    with path.open("rb") as file:
        return _map(file)


def _map(file: IO[bytes]) -> bytes:
    """Typed as bytes because every slice of a map is bytes."""
    if os.fstat(file.fileno()).st_size == 0:
        return b""  # an empty file cannot be mapped
    return cast(bytes, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def frames_of(data: bytes, uri: str) -> npt.NDArray[np.int64]:
    """Where the frames of checked content begin, and its end; raises RecordError if it is no TFRecord."""
    starts, at = [0], 0
    while at + _LENGTH.size <= len(data):
        at += _LENGTH.unpack_from(data, at)[0] + FRAME_BYTES
        starts.append(at)
    if at != len(data):
        for _ in read_records(data, uri):
            pass
    return np.array(starts, np.int64)
