"""A run's metrics on local disk until they are delivered: JSON lines, and beside them how many bytes are delivered.

What a killed process leaves is a torn last line at worst, which is dropped, and metrics that had been delivered but not
yet counted. Those are delivered again; MLflow keeps one of several metrics that are equal in all, time included.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from packing.errors import StorageError, UsageError
from packing.ports import Metric

MARK_SUFFIX = ".delivered"
_READ_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)


class Spool:
    """The undelivered metrics of one run, in order, held by one process; one thread may add while another takes.

    Lines are `[key, value, step, timestamp]`. What is added survives the process, though not a crash of the machine.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file; raises UsageError while another process has it open."""
        self.path, self._mark = path, path.with_suffix(MARK_SUFFIX)
        self._lock = threading.Lock()
        self._open = True
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
            self._hold()
            self._end = self._whole_lines()
            self._file.truncate(self._end)
            self._delivered = self._read_mark()

    def _hold(self) -> None:
        """The system lets go of it when the process ends, however that comes."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            self._file.close()
            raise UsageError(f"{self.path}: another process sends this run's metrics; end it, then run again") from exc

    def _whole_lines(self) -> int:
        """Where the last line that was written to its end ends."""
        size = end = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _READ_BYTES)
            last = os.pread(self._file.fileno(), end - start, start).rfind(b"\n")
            if last >= 0:
                end = start + last + 1
                break
            end = start
        if end < size:
            logger.warning("%s: a metric that was not written to its end is dropped", self.path)
        return end

    def _read_mark(self) -> int:
        try:
            delivered = int(self._mark.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            delivered = 0
        if not 0 <= delivered <= self._end:
            # All of it was delivered and removed, and then the process was killed.
            delivered = 0
        self._write_mark(delivered)
        return delivered

    def add(self, metrics: Iterable[Metric]) -> None:
        """Keep these metrics."""
        lines = b"".join(_encode(metric) for metric in metrics)
        with self._lock, self._translated():
            if self._file.write(lines) < len(lines):
                self._file.truncate(self._end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._end += len(lines)

    @property
    def empty(self) -> bool:
        """Whether all metrics are delivered."""
        with self._lock:
            return self._delivered == self._end

    def take(self, limit: int) -> tuple[list[Metric], int]:
        """The first undelivered metrics, `limit` at most, and what to give to `delivered` afterwards."""
        with self._lock, self._translated():
            start, end = self._delivered, self._end
            content = os.pread(self._file.fileno(), min(end - start, _READ_BYTES), start)
        lines = content[: content.rfind(b"\n") + 1 or None].splitlines(keepends=True)[:limit]
        return [metric for line in lines if (metric := self._decode(line))], start + sum(map(len, lines))

    def delivered(self, end: int) -> None:
        """Remember that all metrics up to `end` are delivered; when none is left, the file becomes empty."""
        with self._lock, self._translated():
            if not self._open or end == self._delivered:
                return
            if end == self._end:
                self._file.truncate(0)
                end = self._end = 0
            self._write_mark(end)
            self._delivered = end

    def close(self) -> None:
        """Let another process have the file; a delivery that is still under way goes unnoticed and is repeated."""
        with self._lock:
            self._open = False
            self._file.close()

    def remove(self) -> None:
        """Once it is closed and nothing can come any more."""
        with self._translated():
            self.path.unlink(missing_ok=True)
            self._mark.unlink(missing_ok=True)

    def _decode(self, line: bytes) -> Metric | None:
        try:
            key, value, step, timestamp = json.loads(line)
            return Metric(str(key), float(value), int(step), int(timestamp))
        except (ValueError, TypeError) as exc:
            logger.warning("%s: a damaged line is left out (%s): %.80r", self.path, exc, line)
            return None

    def _write_mark(self, delivered: int) -> None:
        temporary = self._mark.with_suffix(".tmp")
        temporary.write_text(str(delivered), encoding="ascii")
        temporary.replace(self._mark)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise StorageError(f"{self.path}: metrics cannot be kept there ({exc}); free space on that disk") from exc


def _encode(metric: Metric) -> bytes:
    return json.dumps([metric.key, metric.value, metric.step, metric.timestamp]).encode() + b"\n"
