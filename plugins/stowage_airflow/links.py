"""Buttons of a task in Airflow's web interface."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowRuntimeError

from packing.errors import StowageError
from stowage_airflow.connections import mlflow_uri

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

    from stowage_airflow.launch import TaskKey

RUN_ID = "mlflow_run_id"
"""XCom of a training task, there as soon as its MLflow run is."""

_ANNOUNCED = re.compile(r"MLflow run (\w+)")

log = logging.getLogger(__name__)


class MlflowRunLink(BaseOperatorLink):
    """From a training task to its MLflow run; Airflow asks for it when the task has ended, however that came."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - the signature is Airflow's
        """The run's page, or "" if no run was recorded."""
        from airflow.sdk.execution_time.xcom import XCom

        figures = XCom.get_value(key="return_value", ti_key=ti_key) or {}
        run_id = figures.get("run_id") or XCom.get_value(key=RUN_ID, ti_key=ti_key)
        return _page(run_id) if run_id else ""


def announced_run(line: str) -> str:
    """The id of the MLflow run, if this is the line of a training's log that names it."""
    announced = _ANNOUNCED.fullmatch(line)
    return announced[1] if announced else ""


def link_run(task: TaskKey, run_id: str) -> None:
    """Set the link while the task still works."""
    from airflow.sdk.execution_time.xcom import XCom

    try:
        for key, value in ((RUN_ID, run_id), (MlflowRunLink().xcom_key, _page(run_id))):
            XCom.set(key, value, **asdict(task))
    except (AirflowException, AirflowRuntimeError, StowageError) as exc:
        log.warning("no link to MLflow run %s yet: %s", run_id, exc)


def _page(run_id: str) -> str:
    return f"{mlflow_uri()}/#/runs/{run_id}"
