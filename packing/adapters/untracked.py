"""A tracker for those who have none: runs are not recorded, and have no id."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from packing.errors import RunNotFoundError
from packing.ports import NOTHING, FoundRuns, InputDataset, Metric, Table


class NullRun:
    """A run that goes nowhere."""

    run_id = ""

    def log_metrics(self, metrics: Iterable[Metric]) -> None: ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def log_artifacts(self, artifacts: Mapping[str, bytes]) -> None: ...

    def log_tables(self, tables: Mapping[str, Table]) -> None: ...

    def log_inputs(self, datasets: Iterable[InputDataset]) -> None: ...

    def finish(self, status: str = "FINISHED") -> None: ...


class NullTracker:
    """Starts runs that go nowhere."""

    def start_run(
        self,
        experiment: str,  # noqa: ARG002 - the port's signature, here and below
        name: str,  # noqa: ARG002
        *,
        params: Mapping[str, str],  # noqa: ARG002
        tags: Mapping[str, str],  # noqa: ARG002
    ) -> NullRun:
        return NullRun()

    def open_run(self, run_id: str) -> NullRun:  # noqa: ARG002
        return NullRun()

    def find_runs(
        self,
        experiment: str,  # noqa: ARG002
        *,
        params: Mapping[str, str] = NOTHING,  # noqa: ARG002
        tags: Mapping[str, str] = NOTHING,  # noqa: ARG002
        inputs: Collection[str] = (),  # noqa: ARG002
        limit: int = 100,  # noqa: ARG002
        page: str = "",  # noqa: ARG002
    ) -> FoundRuns:
        return FoundRuns((), "")

    def read_artifact(self, run_id: str, path: str) -> bytes:
        raise RunNotFoundError(f"run {run_id}: no {path}, as runs are not tracked; name a server")

    def set_current(
        self,
        name: str,  # noqa: ARG002
        run_id: str,  # noqa: ARG002
        *,
        tags: Mapping[str, str],  # noqa: ARG002
        description: str,  # noqa: ARG002
    ) -> str:
        return ""

    def find_current(self, name: str) -> Mapping[str, str]:  # noqa: ARG002
        return NOTHING
