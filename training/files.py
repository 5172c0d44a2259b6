"""Files between a local folder and a store, checked by size and SHA-256; none is held in memory whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from packing.errors import ObjectNotFoundError, UsageError, VerificationError
from packing.ports import ObjectInfo, Storage
from training.config import PUBLISHED_CONFIG

RANGE_BYTES = 16 * 1024 * 1024
_PARALLEL = 4
_BLOCK_BYTES = 1024 * 1024
_INDEX = ".index"
_LATEST = "checkpoint"


@dataclass(frozen=True)
class StoredFile:
    """One file of a folder in the store."""

    name: str
    bytes: int
    sha256: str


def store_files(storage: Storage, local: Path, folder: str) -> list[StoredFile]:
    """Store the files of `local`, none of them empty, below the URI `folder`; sorted by name."""

    def store(path: Path) -> int:
        # Mapped, so that it goes from the page cache to the store.
        return storage.write(f"{folder}/{path.name}", np.memmap(path, np.uint8, "r")).size

    paths = sorted(local.iterdir())
    with ThreadPoolExecutor(_PARALLEL) as pool:
        digests = pool.map(_sha256, paths)
        sizes = pool.map(store, paths)
        return [StoredFile(path.name, size, sha256) for path, size, sha256 in zip(paths, sizes, digests, strict=True)]


def fetch_file(storage: Storage, uri: str, expected: StoredFile, path: Path) -> None:
    """Make `path` a copy of the object; raises VerificationError if that is not what is `expected`."""
    try:
        found = storage.head(uri)
    except ObjectNotFoundError as exc:
        raise VerificationError(f"{uri}: expected {expected.bytes} bytes, found no such object") from exc
    if found.size != expected.bytes:
        raise VerificationError(f"{uri}: expected {expected.bytes} bytes, found {found.size}")
    _copy(storage, found, path)
    if (sha256 := _sha256(path)) != expected.sha256:
        raise VerificationError(f"{uri}: expected SHA-256 {expected.sha256}, found {sha256}")


def fetch_checkpoint(storage: Storage, uri: str, folder: Path) -> Path:
    """Copy one checkpoint of TensorFlow, and the shape of its model if it lies beside it, into `folder`; its prefix.

    `uri` is its prefix, or the folder of the checkpoint that a `checkpoint` file there names, or of the only one.
    """
    parent = uri if storage.list(uri) else uri.rsplit("/", 1)[0]
    files = {info.uri.removeprefix(f"{parent}/"): info for info in storage.list(parent)}
    name = _chosen(storage, uri, files) if parent == uri else uri.rsplit("/", 1)[1]
    if f"{name}{_INDEX}" not in files:
        raise UsageError(f"{uri}: expected a checkpoint, found no {name}{_INDEX}; give its prefix or its folder")
    for file, info in files.items():
        if file == PUBLISHED_CONFIG or re.fullmatch(rf"{re.escape(name)}\.(index|data-[^/]*)", file):
            _copy(storage, info, folder / file)
    return folder / name


def _chosen(storage: Storage, folder: str, files: Mapping[str, ObjectInfo]) -> str:
    if _LATEST in files:
        named = re.search(
            rb'^model_checkpoint_path: "(?:.*/)?([^"/]+)"', storage.read(files[_LATEST].uri), re.MULTILINE
        )
        if named and f"{(name := named[1].decode(errors='replace'))}{_INDEX}" in files:
            return name
    return only_checkpoint(folder, files)


def only_checkpoint(folder: str, files: Iterable[str]) -> str:
    """The name of the one checkpoint among the files of a folder; raises UsageError if there is none or another."""
    names = sorted(name.removesuffix(_INDEX) for name in files if name.endswith(_INDEX) and "/" not in name)
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise UsageError(f"{folder}: expected one checkpoint, found {found}; give the prefix of one")
    return names[0]


def _copy(storage: Storage, info: ObjectInfo, path: Path) -> None:
    def fetch(start: int) -> None:
        content = storage.read(info.uri, start=start, size=min(RANGE_BYTES, info.size - start), etag=info.etag)
        with path.open("r+b") as file:
            file.seek(start)
            file.write(content)

    path.touch()
    with ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(fetch, range(0, info.size, RANGE_BYTES)))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
