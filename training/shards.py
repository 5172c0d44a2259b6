"""A bounded cache of shards on local disk: checked, uncompressed copies.

A copy is named by the SHA-256 of its content, so what is open is known to be right. The workers of one machine may
share a folder: one of them fetches a shard while the others wait for it. Those copies that were not used for longest
are evicted; a process reads on in what it has open, which is mapped, and fetches again what it misses.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from packing.errors import InputError, StorageError, UsageError, VerificationError
from packing.ports import Storage
from packing.tfrecord import read_records
from packing.types import RawShard
from training.background import StoppedError, in_parallel
from training.records import Records, Shard, content_of, frames_of, map_file, raw_content, write_file

PARALLEL_FETCHES = 8
WINDOWS = 4
"""How many windows are open at most: what is read and what is fetched next, of the training and the held-out data."""
_COPY, _UNFINISHED = ".tfrecord", ".tmp"

logger = logging.getLogger(__name__)


class Cache:
    """Local copies of shards in `folder`, of at most `limit_bytes` together, for all processes that share the folder.

    What is open in this process, or being opened, is not evicted. So the limit holds for whoever has at most WINDOWS
    windows of `window_bytes` open. It may be exceeded while compressed raw shards are counted, as nobody knows their
    size before. The folder, which is made when it is first needed, is named by StorageError if it cannot be used.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder, self.limit_bytes = folder.absolute(), limit_bytes
        self._open: WeakValueDictionary[str, Records] = WeakValueDictionary()
        self._coming: Counter[Shard] = Counter()
        self._lock = threading.Lock()

    @property
    def window_bytes(self) -> int | None:
        """How much to open at a time: the share of the limit that leaves room for the other windows."""
        return None if self.limit_bytes is None else self.limit_bytes // WINDOWS

    def check_fits(self, shards: Iterable[Shard]) -> None:
        """Raise UsageError if one of the shards is larger than a window."""
        largest = max(shards, key=lambda shard: shard.bytes)
        if self.window_bytes is not None and largest.bytes > self.window_bytes:
            raise UsageError(
                f"{largest.uri}: a cache of {self.limit_bytes} bytes has no room for {WINDOWS} shards of "
                f"{largest.bytes}; allow at least {WINDOWS * largest.bytes}"
            )

    def open(self, storage: Storage, shards: Sequence[Shard], stopped: threading.Event | None = None) -> list[Records]:
        """The records of all these shards, fetched several at a time; raises StoppedError once `stopped` is set.

        Raises VerificationError for a shard that is missing or not what it was.
        """

        def open_one(shard: Shard) -> Records:
            if stopped and stopped.is_set():
                raise StoppedError(shard.uri)
            return self._open_shard(storage, shard)

        with self._room_for(shards):
            return in_parallel(open_one, shards, PARALLEL_FETCHES)

    def _open_shard(self, storage: Storage, shard: Shard) -> Records:
        with self.locked(shard.sha256[:2]), self._in_folder():
            records = self._opened(shard.sha256)
            if records is None:
                data = self._copy_of(shard)
                data = self._fetch(storage, shard) if data is None else data
                records = self._keep_open(shard.sha256, Records(data, frames_of(data, shard.uri)))
        if len(records) != shard.examples:
            raise InputError(
                f"{shard.uri}: expected {shard.examples} examples, found {len(records)}; refresh the dataset"
            )
        return records

    def add(self, storage: Storage, raw: RawShard, key: str) -> tuple[Shard, Records]:
        """Fetch, check and count a raw shard of which no copy is known; until then it bears the name `key`.

        Raises RecordError at the first damaged record.
        """
        temporary = self.folder / f"{key}{_UNFINISHED}"
        with self._in_folder():
            data, sha256 = write_file(temporary, raw_content(storage, raw))
            starts = [offset for offset, _ in read_records(data, raw.uri)]
            records = self._keep_open(sha256, Records(data, np.array([*starts, len(data)], np.int64)))
            self._publish(temporary, sha256)
        self._make_room()
        return Shard(raw.uri, len(data), len(records), sha256, raw), records

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Alone with `name` among the threads of all processes that share the folder; a dying process lets go of it."""
        with self._in_folder():
            file = (self.folder / f".lock-{name}").open("wb")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _opened(self, sha256: str) -> Records | None:
        with self._lock:
            records = self._open.get(sha256)
        if records is not None:
            with suppress(FileNotFoundError):
                os.utime(self._path(sha256))
        return records

    def _keep_open(self, sha256: str, records: Records) -> Records:
        with self._lock:
            self._open[sha256] = records
        return records

    def _copy_of(self, shard: Shard) -> bytes | None:
        path = self._path(shard.sha256)
        try:
            data = map_file(path)
            os.utime(path)
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            logger.warning("%s: damaged; fetching %s again", path, shard.uri)
            return None
        return data

    def _fetch(self, storage: Storage, shard: Shard) -> bytes:
        temporary = self.folder / f"{shard.sha256}{_UNFINISHED}"
        data, sha256 = write_file(temporary, content_of(storage, shard))
        if (len(data), sha256) != (shard.bytes, shard.sha256):
            temporary.unlink(missing_ok=True)
            raise VerificationError(
                f"{shard.uri}: expected {shard.bytes} bytes with SHA-256 {shard.sha256}, found {len(data)} with "
                f"{sha256}; the shard was altered after its digest was taken, refresh the dataset"
            )
        self._publish(temporary, sha256)
        return data

    def _publish(self, temporary: Path, sha256: str) -> None:
        """Give a whole copy its name; if another process evicted it already, this one still has it mapped."""
        with suppress(FileNotFoundError):
            temporary.replace(self._path(sha256))

    @contextmanager
    def _room_for(self, shards: Sequence[Shard]) -> Iterator[None]:
        """Have room for these, whatever other threads open meanwhile."""
        with self._lock:
            self._coming.update(shards)
        try:
            self._make_room()
            yield
        finally:
            with self._lock:
                self._coming -= Counter(shards)

    def _make_room(self) -> None:
        """Evict what is neither open nor being opened, oldest use first, until all that is being opened fits."""
        if self.limit_bytes is None:
            return
        with self._lock, self._in_folder():
            coming = {shard.sha256: shard.bytes for shard in self._coming}
            others = [copy for copy in self._copies() if copy[0].stem not in coming]
            excess = sum(coming.values()) + sum(size for _, size, _ in others) - self.limit_bytes
            for path, size, _ in sorted(others, key=lambda copy: copy[2]):
                if excess > 0 and path.stem not in self._open:
                    path.unlink(missing_ok=True)
                    excess -= size

    def _copies(self) -> Iterator[tuple[Path, int, int]]:
        """Path, bytes and last use of each copy, the unfinished ones of this and other processes included."""
        for path in self.folder.iterdir():
            if path.suffix in (_COPY, _UNFINISHED):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    yield path, status.st_size, status.st_mtime_ns

    def _path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}{_COPY}"

    @contextmanager
    def _in_folder(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as exc:
            raise StorageError(
                f"{self.folder}: {exc}; check that this cache folder can be written and has free space"
            ) from exc
