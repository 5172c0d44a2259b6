"""Shards on local disk: fetched through the `Storage` port, checked, then read record by record in any order."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np

from packing.errors import ObjectNotFoundError, VerificationError
from packing.jsonio import digest
from packing.ports import Storage
from packing.tfrecord import decompress, read_record_at, read_records
from packing.types import PackedShard, RawShard

_PARALLEL_FETCHES = 8


class Records:
    """Random access to the serialized examples of local, uncompressed TFRecord files, in file order.

    Files are mapped, not read: the page cache decides what stays in memory, a record costs 16 bytes.
    """

    def __init__(self, files: Iterable[tuple[Path, str]]) -> None:
        """Index `files`, pairs of a path and the URI to name in errors; raises RecordError at a bad frame."""
        self._maps: list[bytes] = []
        numbers, offsets, sizes = [], [], []
        for number, (path, uri) in enumerate(files):
            data = _map(path)
            self._maps.append(data)
            frames = [(offset, len(payload)) for offset, payload in read_records(data, uri)]
            numbers.append(np.full(len(frames), number, np.int32))
            offsets.append(np.array([offset for offset, _ in frames], np.int64))
            sizes.append(np.array([size for _, size in frames], np.int32))
        self._numbers, self._offsets, self._sizes = (np.concatenate(part) for part in (numbers, offsets, sizes))

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> bytes:
        data = self._maps[self._numbers[index]]
        return read_record_at(data, int(self._offsets[index]), int(self._sizes[index]))


def fetch_packed(storage: Storage, shards: Sequence[PackedShard], cache: Path) -> list[tuple[Path, str]]:
    """Local copies of a manifest's shards, size and SHA-256 checked; raises VerificationError for an altered one."""

    def fetch(shard: PackedShard) -> tuple[Path, str]:
        path = cache / f"{shard.sha256}.tfrecord"
        if not path.exists() or _sha256(path.read_bytes()) != shard.sha256:
            _write(path, _read_checked(storage, shard))
        return path, shard.uri

    return _in_parallel(fetch, shards, cache)


def fetch_raw(storage: Storage, shards: Sequence[RawShard], cache: Path) -> list[tuple[Path, str]]:
    """Local, uncompressed copies of raw shards, cached by identity (URI, size, ETag)."""

    def fetch(shard: RawShard) -> tuple[Path, str]:
        path = cache / f"{digest([shard.uri, shard.size, shard.etag])}.tfrecord"
        if not path.exists():
            _write(path, decompress(storage.read(shard.uri, etag=shard.etag), shard.uri))
        return path, shard.uri

    return _in_parallel(fetch, shards, cache)


def _in_parallel(
    fetch: Callable[..., tuple[Path, str]], shards: Sequence[object], cache: Path
) -> list[tuple[Path, str]]:
    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_PARALLEL_FETCHES) as pool:
        return list(pool.map(fetch, shards))


def _read_checked(storage: Storage, shard: PackedShard) -> bytes:
    try:
        content = storage.read(shard.uri)
    except ObjectNotFoundError as exc:
        raise VerificationError(
            f"{shard.uri}: the manifest lists this shard, found no such object; refresh the dataset"
        ) from exc
    found = (len(content), _sha256(content))
    if found != (shard.bytes, shard.sha256):
        raise VerificationError(
            f"{shard.uri}: expected {shard.bytes} bytes with SHA-256 {shard.sha256}, found {found[0]} with {found[1]}; "
            "the shard was altered after it was packed, refresh the dataset"
        )
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Wholly or not at all, so that a killed download leaves nothing that looks like a shard."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _map(path: Path) -> bytes:
    """The file's content, mapped: typed as bytes because every slice of a map is bytes."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""  # an empty file cannot be mapped
        return cast(bytes, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
