"""Who may see and do what, as Airflow's auth manager decides it."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
from airflow.models.dag import DagModel
from fastapi import Depends

REFRESH_DAG = "refresh_packed_dataset"
TRAINING_DAG = "pretrain_bert"

may_see_recipes = requires_access_dag("GET", DagAccessEntity.RUN, REFRESH_DAG)
"""Recipes are what the runs of that DAG made; refuses a request with 401 or 403."""

User = Annotated[Any, Depends(get_user)]


def may_refresh(user: User) -> bool:
    """Whether Airflow would let this user trigger a refresh, which it checks again when asked to."""
    return _may(user, "POST", REFRESH_DAG)


def may_see_trainings(user: User) -> bool:
    """Whether this user may read the training's runs."""
    return _may(user, "GET", TRAINING_DAG)


def _may(user: Any, method: Any, dag_id: str) -> bool:
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return get_auth_manager().is_authorized_dag(
        method=method, access_entity=DagAccessEntity.RUN, details=details, user=user
    )
