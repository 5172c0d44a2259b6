"""The ports in memory: what tests run on, and where a dry run keeps what it would have stored.

They keep the contract that the real adapters keep; `tests/contracts` holds both to it.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from packing.errors import ObjectChangedError, ObjectNotFoundError, RunNotFoundError, UsageError
from packing.ports import (
    NOTHING,
    Buffer,
    FoundRuns,
    InputDataset,
    Metric,
    ObjectInfo,
    Table,
    TrackedRun,
    byte_view,
    check_range,
    table_bytes,
)


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
        inputs: Collection[str] = (),
        limit: int = 100,
        page: str = "",
    ) -> FoundRuns:
        found = [
            run.recorded()
            for run in reversed(self.runs.values())
            if run.experiment == experiment
            and params.items() <= run.params.items()
            and tags.items() <= run.tags.items()
            and (not inputs or not {dataset.digest for dataset in run.inputs}.isdisjoint(inputs))
        ]
        if page and not page.isdecimal():
            raise UsageError(f"page {page!r}: expected the token of an earlier answer; start from the first page")
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

    def find_current(self, name: str) -> Mapping[str, str]:
        registered = self.registered.get(name)
        return dict(registered.versions[registered.current][1]) if registered else {}
