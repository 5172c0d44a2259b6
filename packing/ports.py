"""The two seams to the outside, a store of objects and a tracker of runs, with the fakes that tests use.

The fakes keep the contract that the real adapters keep; `tests/contracts` holds both to it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from packing.errors import ObjectChangedError, ObjectNotFoundError, RunNotFoundError, StorageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Buffer: TypeAlias = "bytes | bytearray | memoryview | NDArray[np.uint8]"
"""Contiguous bytes; `collections.abc.Buffer` needs Python 3.12."""

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object; `etag` changes whenever its content does."""

    uri: str
    size: int
    etag: str


class Storage(Protocol):
    """Objects by URI (`s3://bucket/key` or an absolute path). Every failure is a `StorageError` naming the URI."""

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects below the folder `prefix`, sorted by URI; none is no error, a missing bucket is one."""
        ...

    def head(self, uri: str) -> ObjectInfo:
        """Size and ETag; raises ObjectNotFoundError."""
        ...

    def read(self, uri: str, *, start: int = 0, size: int | None = None, etag: str | None = None) -> bytes:
        """`size` bytes from `start`, or all to the end; never silently short.

        Raises ObjectNotFoundError, ObjectChangedError if `etag` is given and no longer the object's, and StorageError
        if the range asked for reaches past the end.
        """
        ...

    def read_into(self, uri: str, buffer: Buffer, *, start: int = 0, etag: str | None = None) -> None:
        """Fill the whole of the writable `buffer` with the object's bytes from `start`; raises as `read` does.

        After an error the content of the buffer is undefined.
        """
        ...

    def write(self, uri: str, data: Buffer) -> ObjectInfo:
        """Create or replace the object, wholly or not at all; `data` is left alone until this returns."""
        ...

    def delete(self, uri: str) -> None:
        """Remove the object; that there is none is no error."""
        ...


@dataclass(frozen=True)
class Metric:
    """One measured value; `timestamp` is milliseconds since the epoch."""

    key: str
    value: float
    step: int
    timestamp: int


Cell: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True)
class Table:
    """Rows that a tracker shows, and compares between runs that have a table at the same path."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class InputDataset:
    """A dataset that a run read or made; runs that have its `name` and `digest` in common share it.

    `uri` is where it is, `context` what it was to the run, `schema` and `profile` are JSON documents that describe it.
    MLflow keeps 36 characters of a digest.
    """

    name: str
    digest: str
    uri: str
    context: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)


class Run(Protocol):
    """One tracked run that is being recorded."""

    @property
    def run_id(self) -> str: ...

    def log_metrics(self, metrics: Iterable[Metric]) -> None: ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def log_artifacts(self, artifacts: Mapping[str, bytes]) -> None:
        """Store files by path below the run's artifact root, such as `recipe/recipe.json`."""
        ...

    def log_tables(self, tables: Mapping[str, Table]) -> None:
        """Store tables by path, which ends with `.json`; a table that is there already is replaced."""
        ...

    def log_inputs(self, datasets: Iterable[InputDataset]) -> None:
        """Record datasets as the run's inputs; one that is recorded already stays as it is."""
        ...

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        ...


@dataclass(frozen=True)
class TrackedRun:
    """One run as it is recorded; `started` is milliseconds since the epoch, `metrics` are the latest values."""

    run_id: str
    name: str
    status: str
    started: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class FoundRuns:
    """Some of the runs that were looked for, and the token with which to ask for more; "" after the last."""

    runs: tuple[TrackedRun, ...]
    next_page: str


class Tracker(Protocol):
    """Runs in experiments. Every failure is a `TrackingError` with the server's reason."""

    def start_run(self, experiment: str, name: str, *, params: Mapping[str, str], tags: Mapping[str, str]) -> Run: ...

    def open_run(self, run_id: str) -> Run:
        """An existing run, to add to; raises RunNotFoundError if there is none, or if it was deleted.

        A server that is away is only found out by what is logged next.
        """
        ...

    def find_runs(
        self,
        experiment: str,
        *,
        params: Mapping[str, str] = NOTHING,
        tags: Mapping[str, str] = NOTHING,
        limit: int = 100,
        page: str = "",
    ) -> FoundRuns:
        """At most `limit` runs that have these params and tags, newest first; `page` is an earlier `next_page`.

        An experiment that does not exist has no runs; deleted runs are left out.
        """
        ...

    def read_artifact(self, run_id: str, path: str) -> bytes:
        """A file that was logged; raises RunNotFoundError if there is no such run, or no such file in it."""
        ...

    def set_current(self, name: str, run_id: str, *, tags: Mapping[str, str], description: str) -> str:
        """Let the alias `current` of the registered `name` point to the version with these `tags`; gives its number.

        The version is made from the run if there is none, and the name, with its `description`, too. What is current
        already is left as it is.
        """
        ...


class MemoryStorage:
    """A store in a dict; counts requests, so that tests can show what was not read."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    def list(self, prefix: str) -> list[ObjectInfo]:
        self.requests.append(("list", prefix))
        folder = prefix.rstrip("/") + "/"
        return [self._info(uri) for uri in sorted(self.objects) if uri.startswith(folder)]

    def head(self, uri: str) -> ObjectInfo:
        self.requests.append(("head", uri))
        self._content(uri)
        return self._info(uri)

    def read(self, uri: str, *, start: int = 0, size: int | None = None, etag: str | None = None) -> bytes:
        self.requests.append(("read", uri))
        content = self._content(uri)
        if etag is not None and self._info(uri).etag != etag:
            raise ObjectChangedError(f"{uri}: expected ETag {etag}, found {self._info(uri).etag}; scan again")
        check_range(uri, start, size, len(content))
        return content[start:] if size is None else content[start : start + size]

    def read_into(self, uri: str, buffer: Buffer, *, start: int = 0, etag: str | None = None) -> None:
        view = byte_view(buffer)
        view[:] = self.read(uri, start=start, size=len(view), etag=etag)

    def write(self, uri: str, data: Buffer) -> ObjectInfo:
        self.requests.append(("write", uri))
        self.objects[uri] = bytes(data)
        return self._info(uri)

    def delete(self, uri: str) -> None:
        self.requests.append(("delete", uri))
        self.objects.pop(uri, None)

    def _content(self, uri: str) -> bytes:
        if uri not in self.objects:
            raise ObjectNotFoundError(f"{uri}: no such object")
        return self.objects[uri]

    def _info(self, uri: str) -> ObjectInfo:
        content = self.objects[uri]
        return ObjectInfo(uri, len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())


def table_bytes(table: Table) -> bytes:
    """The table as MLflow keeps it: pandas' JSON with orient `split`, without an index."""
    return json.dumps({"columns": table.columns, "data": table.rows}, allow_nan=False).encode()


def byte_view(buffer: Buffer) -> memoryview:
    """The bytes of a buffer, without a copy."""
    return memoryview(buffer).cast("B")  # type: ignore[arg-type] # numpy declares its buffers from Python 3.12 on


def check_range(uri: str, start: int, size: int | None, available: int) -> None:
    """Refuse a range that an object of `available` bytes cannot fill; every Storage applies it."""
    wanted = start if size is None else start + size
    if start < 0 or (size is not None and size < 0) or wanted > available:
        raise StorageError(f"{uri}: expected at least {wanted} bytes, found {available}; the object may be truncated")


@dataclass
class MemoryRun:
    """A run kept in memory; its attributes are what was logged."""

    run_id: str
    experiment: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: list[Metric] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    inputs: list[InputDataset] = field(default_factory=list)
    status: str = "RUNNING"
    started: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def log_metrics(self, metrics: Iterable[Metric]) -> None:
        self.metrics.extend(metrics)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags.update(tags)

    def log_artifacts(self, artifacts: Mapping[str, bytes]) -> None:
        self.artifacts.update(artifacts)

    def log_tables(self, tables: Mapping[str, Table]) -> None:
        self.log_artifacts({path: table_bytes(table) for path, table in tables.items()})
        self.tables.update(tables)

    def log_inputs(self, datasets: Iterable[InputDataset]) -> None:
        known = {(dataset.name, dataset.digest) for dataset in self.inputs}
        self.inputs.extend(dataset for dataset in datasets if (dataset.name, dataset.digest) not in known)

    def finish(self, status: str = "FINISHED") -> None:
        self.status = status

    def recorded(self) -> TrackedRun:
        """What the tracker knows of the run."""
        metrics = {metric.key: metric.value for metric in sorted(self.metrics, key=lambda m: (m.step, m.timestamp))}
        return TrackedRun(
            self.run_id, self.name, self.status, self.started, dict(self.params), dict(self.tags), metrics
        )


@dataclass
class MemoryRegistered:
    """A registered name: a run's id and tags by version, and the version that is current."""

    description: str
    versions: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    current: str = ""


class MemoryTracker:
    """A tracker in a dict."""

    def __init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}
        self.registered: dict[str, MemoryRegistered] = {}
        self._ids = itertools.count(1)

    def start_run(self, experiment: str, name: str, *, params: Mapping[str, str], tags: Mapping[str, str]) -> MemoryRun:
        run = MemoryRun(f"run-{next(self._ids)}", experiment, name, dict(params), dict(tags))
        self.runs[run.run_id] = run
        return run

    def open_run(self, run_id: str) -> MemoryRun:
        if run_id not in self.runs:
            raise RunNotFoundError(f"run {run_id}: no such run")
        return self.runs[run_id]

    def find_runs(
        self,
        experiment: str,
        *,
        params: Mapping[str, str] = NOTHING,
        tags: Mapping[str, str] = NOTHING,
        limit: int = 100,
        page: str = "",
    ) -> FoundRuns:
        found = [
            run.recorded()
            for run in reversed(self.runs.values())
            if run.experiment == experiment
            and params.items() <= run.params.items()
            and tags.items() <= run.tags.items()
        ]
        start = int(page or 0)
        more = start + limit < len(found)
        return FoundRuns(tuple(found[start : start + limit]), str(start + limit) if more else "")

    def read_artifact(self, run_id: str, path: str) -> bytes:
        try:
            return self.open_run(run_id).artifacts[path]
        except KeyError as exc:
            raise RunNotFoundError(f"run {run_id}: has no artifact {path}") from exc

    def set_current(self, name: str, run_id: str, *, tags: Mapping[str, str], description: str) -> str:
        registered = self.registered.setdefault(name, MemoryRegistered(description))
        found = (number for number, (_, own) in registered.versions.items() if tags.items() <= own.items())
        registered.current = next(found, str(len(registered.versions) + 1))
        registered.versions.setdefault(registered.current, (self.open_run(run_id).run_id, dict(tags)))
        return registered.current
