"""Who or what asked for a DAG run, in the words in which its recipe's run says so."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote


def provenance_tags(context: Any) -> dict[str, str]:
    """The tags that lead from a tracked run to the DAG run of a task's `context`, and say who triggered it."""
    dag_id, run_id = context["dag"].dag_id, context["run_id"]
    return {
        "airflow.dag_id": dag_id,
        "airflow.run_id": run_id,
        "airflow.dag_run_url": dag_run_url(dag_id, run_id),
        "stowage.triggered_by": triggered_by(context["dag_run"]),
    }


def dag_run_url(dag_id: str, run_id: str) -> str:
    """The DAG run's page in Airflow's interface."""
    from airflow.sdk.configuration import conf

    base: str = conf.get("api", "base_url", fallback="http://localhost:8080/")
    return f"{base.rstrip('/')}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"


def triggered_by(dag_run: Any) -> str:
    """`admin, by hand`, `schedule`, `asset event`, or Airflow's own word for it."""
    kind = str(getattr(dag_run.run_type, "value", dag_run.run_type))
    if kind == "manual":
        user = dag_run.triggering_user_name
        return f"{user}, by hand" if user else "by hand"
    return {"scheduled": "schedule", "asset_triggered": "asset event"}.get(kind, kind)
