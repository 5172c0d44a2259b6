"""Buttons of a task in Airflow's web interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from stowage_airflow.connections import mlflow_uri

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey


class MlflowRunLink(BaseOperatorLink):
    """From a training task to its MLflow run; Airflow asks for it when the task has ended."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - the signature is Airflow's
        """The run's page, or "" if no run was recorded."""
        from airflow.sdk.execution_time.xcom import XCom

        figures = XCom.get_value(key="return_value", ti_key=ti_key)
        run_id = (figures or {}).get("run_id")
        return f"{mlflow_uri()}/#/runs/{run_id}" if run_id else ""
