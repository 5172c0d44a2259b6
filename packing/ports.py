"""The two seams to the outside: a store of objects and a tracker of runs.

`packing.adapters` has the real ones, `packing.in_memory` fakes; `tests/contracts` holds both to what is said here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from packing.errors import StorageError

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

    def start_run(self, experiment: str, name: str, *, params: Mapping[str, str], tags: Mapping[str, str]) -> Run:
        """A new run with these params and tags.

        After an error there may be a run that lacks params; it is FAILED, if the server could still be told.
        """
        ...

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
        inputs: Collection[str] = (),
        limit: int = 100,
        page: str = "",
    ) -> FoundRuns:
        """At most `limit` runs that have these params and tags, newest first; `page` is an earlier `next_page`.

        With `inputs`, only runs that have one of these digests among their input datasets. An experiment that does not
        exist has no runs; deleted runs are left out. Raises UsageError if `page` is no such token.
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

    def find_current(self, name: str) -> Mapping[str, str]:
        """The tags of the version of the registered `name` that is current; none if there is no such version."""
        ...


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
