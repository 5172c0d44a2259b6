"""Runs in MLflow, in as few requests as it allows.

Its client divides a batch by the server's limits on a request. Everything is sent before a call returns, whatever
MLFLOW_ENABLE_ASYNC_LOGGING says: asynchronous logging loses what is left when the server or the process goes away.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from packing.adapters import mlflow_registry
from packing.errors import (
    RunNotFoundError,
    TrackerAnswerError,
    TrackerAwayError,
    TrackerRefusedError,
    TrackingError,
    UsageError,
)
from packing.ports import NOTHING, FoundRuns, InputDataset, Metric, Table, TrackedRun, table_bytes

MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
"""Longer ones are cut silently, unless MLFLOW_TRUNCATE_LONG_VALUES is false."""

_LOGGED_ARTIFACTS = "mlflow.loggedArtifacts"

_AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
_UNKNOWN_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")


class MlflowTracker:
    """`Tracker` over the tracking server at `uri`."""

    def __init__(self, uri: str) -> None:
        # The defaults (7 retries of 120 s) would hold a task for many minutes when the server is away.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        # Standard output belongs to the command's result.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        # Who may ask MLflow for an artifact need not reach, or be known to, the store that it keeps artifacts in.
        os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
        from mlflow.tracking import MlflowClient

        self._uri = uri
        with _translated(uri):
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def start_run(self, experiment: str, name: str, *, params: Mapping[str, str], tags: Mapping[str, str]) -> MlflowRun:
        from mlflow.entities import Param

        _check_lengths("param", params, MAX_PARAM_LENGTH)
        _check_lengths("tag", tags, MAX_TAG_LENGTH)
        with _translated(self._uri):
            experiment_id = self._experiment_id(experiment)
            run_id = self._client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
            run = MlflowRun(self._client, self._uri, run_id)
            try:
                # MLflow makes a run with tags, but without params.
                self._client.log_batch(run_id, params=[Param(*param) for param in params.items()], synchronous=True)
            except BaseException:
                with suppress(TrackingError):
                    run.finish("FAILED")
                raise
        return run

    def open_run(self, run_id: str) -> MlflowRun:
        from mlflow.exceptions import MlflowException

        with _translated(self._uri):
            try:
                self._artifacts_of(run_id)
            except MlflowException as exc:
                if exc.error_code not in _AWAY:
                    raise
        return MlflowRun(self._client, self._uri, run_id)

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
        conditions = [
            f"{kind}.`{key}` = {_quoted(key, value)}"
            for kind, wanted in (("params", params), ("tags", tags))
            for key, value in wanted.items()
        ]
        if inputs:
            conditions.append(f"dataset.digest IN ({', '.join(_quoted('digest', digest) for digest in inputs)})")
        with _translated(self._uri):
            found = self._client.get_experiment_by_name(experiment)
            if found is None or found.lifecycle_stage == "deleted":
                return FoundRuns((), "")
            with _page_checked(page):
                runs = self._client.search_runs(
                    [found.experiment_id],
                    " and ".join(conditions),
                    max_results=limit,
                    order_by=["attributes.start_time DESC"],
                    page_token=page or None,
                )
        return FoundRuns(tuple(_recorded(run) for run in runs), runs.token or "")

    def read_artifact(self, run_id: str, path: str) -> bytes:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with _translated(self._uri), tempfile.TemporaryDirectory() as folder:
            # By its address, where MLflow's client by the run's id would ask for the run six times more.
            artifacts = get_artifact_repository(self._artifacts_of(run_id), tracking_uri=self._uri)
            files = artifacts.list_artifacts(path.rpartition("/")[0] or None)
            if path not in {file.path for file in files if not file.is_dir}:
                raise RunNotFoundError(f"{self._uri}: run {run_id} has no artifact {path}")
            return Path(artifacts.download_artifacts(path, folder)).read_bytes()  # type: ignore[no-untyped-call]

    def set_current(self, name: str, run_id: str, *, tags: Mapping[str, str], description: str) -> str:
        with _translated(self._uri):
            return mlflow_registry.set_current(self._client, name, run_id, tags, description)

    def find_current(self, name: str) -> Mapping[str, str]:
        with _translated(self._uri):
            return mlflow_registry.find_current(self._client, name)

    def _artifacts_of(self, run_id: str) -> str:
        """Where MLflow keeps the artifacts of a run that is there; raises RunNotFoundError, or MLflow's own errors."""
        from mlflow.exceptions import MlflowException

        try:
            info = self._client.get_run(run_id).info
        except MlflowException as exc:
            if exc.error_code in _UNKNOWN_RUN:
                raise RunNotFoundError(f"{self._uri}: has no run {run_id} ({exc})") from exc
            raise
        if info.lifecycle_stage != "active":
            raise RunNotFoundError(f"{self._uri}: run {run_id} is deleted")
        return str(info.artifact_uri)

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException as exc:
                # Somebody else made it between the two requests, unless it is still not there.
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise TrackingError(f"{self._uri}: cannot create experiment {name} ({exc})") from exc
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)


class MlflowRun:
    """`Run` over MLflow's client."""

    def __init__(self, client: Any, uri: str, run_id: str) -> None:
        self._client = client
        self._uri = uri
        self._run_id = run_id

    @property
    def run_id(self) -> str:
        return self._run_id

    def log_metrics(self, metrics: Iterable[Metric]) -> None:
        from mlflow.entities import Metric as MlflowMetric

        batch = [MlflowMetric(metric.key, metric.value, metric.timestamp, metric.step) for metric in metrics]
        with _translated(self._uri):
            self._client.log_batch(self._run_id, metrics=batch, synchronous=True)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        _check_lengths("tag", tags, MAX_TAG_LENGTH)
        with _translated(self._uri):
            self._client.log_batch(self._run_id, tags=[RunTag(*tag) for tag in tags.items()], synchronous=True)

    def log_artifacts(self, artifacts: Mapping[str, bytes]) -> None:
        with _translated(self._uri), tempfile.TemporaryDirectory() as folder:
            for name, content in artifacts.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(self._run_id, folder)

    def log_tables(self, tables: Mapping[str, Table]) -> None:
        """As `mlflow.log_table`, which needs pandas and three requests a table: files, and a tag that lists them."""
        self.log_artifacts({path: table_bytes(table) for path, table in tables.items()})
        with _translated(self._uri):
            tags = self._client.get_run(self._run_id).data.tags
        listed = json.loads(tags.get(_LOGGED_ARTIFACTS, "[]"))
        new = [{"path": path, "type": "table"} for path in tables]
        self.set_tags({_LOGGED_ARTIFACTS: json.dumps([*listed, *(entry for entry in new if entry not in listed)])})

    def log_inputs(self, datasets: Iterable[InputDataset]) -> None:
        from mlflow.entities import DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        inputs = [
            DatasetInput(_dataset(dataset), [InputTag(MLFLOW_DATASET_CONTEXT, dataset.context)]) for dataset in datasets
        ]
        with _translated(self._uri):
            self._client.log_inputs(self._run_id, inputs)

    def finish(self, status: str = "FINISHED") -> None:
        with _translated(self._uri):
            self._client.set_terminated(self._run_id, status=status)


def _recorded(run: Any) -> TrackedRun:
    """MLflow's run as the port's."""
    info, data = run.info, run.data
    return TrackedRun(
        info.run_id, info.run_name, info.status, info.start_time, dict(data.params), dict(data.tags), dict(data.metrics)
    )


def _dataset(dataset: InputDataset) -> Any:
    """The port's dataset as MLflow's, with a source of one of the kinds that MLflow's own datasets have."""
    from mlflow.entities import Dataset

    return Dataset(
        name=dataset.name,
        digest=dataset.digest,
        source_type="s3" if dataset.uri.startswith("s3://") else "local",
        source=json.dumps({"uri": dataset.uri}),
        schema=json.dumps(dataset.schema) if dataset.schema else None,
        profile=json.dumps(dataset.profile) if dataset.profile else None,
    )


def _quoted(key: str, value: str) -> str:
    """The value as a literal of MLflow's filters, which have no escapes."""
    for quote in ("'", '"'):
        if quote not in value:
            return f"{quote}{value}{quote}"
    raise UsageError(f"{key}: expected a value without both kinds of quotes, got {value}; MLflow cannot look for it")


def _check_lengths(kind: str, values: Mapping[str, str], limit: int) -> None:
    for key, value in values.items():
        if len(value) > limit:
            raise TrackingError(f"{kind} {key}: expected at most {limit} characters, got {len(value)}")


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """MLflow raises its own errors; while it stores artifacts, also those of requests and boto3."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except (MlflowException, RequestException, Boto3Error, BotoCoreError, ClientError) as exc:
        kind, advice = _kind_of(exc)
        raise kind(f"{uri}: MLflow failed ({exc}); {advice}") from exc


def _kind_of(exc: Exception) -> tuple[type[TrackingError], str]:
    """What kind of failure this is, and what to do about it."""
    from requests import ConnectionError as NoConnectionError
    from requests import Timeout

    if _is_refusal(exc):
        return TrackerRefusedError, "check its user's name, password and permissions"
    # MLflow's client wraps what `requests` raised.
    if any(isinstance(cause, NoConnectionError | Timeout) for cause in (exc, exc.__cause__, exc.__context__)):
        return TrackerAwayError, "check its address and that it runs"
    return TrackerAnswerError, "check its address and its log"


def _is_refusal(exc: Exception) -> bool:
    status = getattr(getattr(exc, "response", None), "status_code", None)
    return status in {401, 403} or getattr(exc, "error_code", None) in _REFUSED


@contextmanager
def _page_checked(page: str) -> Iterator[None]:
    """A token that MLflow did not give out is the caller's mistake."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as exc:
        if not page or exc.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise UsageError(f"page {page!r}: expected the token of an earlier answer; start from the first page") from exc
