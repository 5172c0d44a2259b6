"""Buttons from tasks made by decorators to the recipe: its page in Airflow, and its run in MLflow."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

from stowage_airflow.connections import mlflow_uri

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey


class RecipeRunLink(BaseOperatorLink):
    """From the task that solved a recipe to the MLflow run that records it."""

    name = "Recipe in MLflow"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - the signature is Airflow's
        """The run's page, or "" if nothing changed."""
        run_id = _result(ti_key, "solved").get("run_id")
        return f"{mlflow_uri()}/#/runs/{run_id}" if run_id else ""


class SolvedRecipeLink(BaseOperatorLink):
    """From the task that solved a recipe to its page in Airflow."""

    name = "Recipe"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - the signature is Airflow's
        """The recipe's page, or "" if none was solved."""
        return _page(_result(ti_key, "solved").get("recipe_id", ""))


class PackedDatasetLink(BaseOperatorLink):
    """From a task that gives a manifest to the page of the recipe that made it; the manifest is named by the recipe."""

    name = "Recipe"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - the signature is Airflow's
        """The recipe's page, or "" if there is no manifest."""
        return _page(PurePosixPath(_result(ti_key, "return_value").get("manifest", "")).stem)


def with_links(result: Any, *links: BaseOperatorLink) -> Any:
    """The result of a task made by a decorator, whose operator then has these buttons."""
    result.operator.operator_extra_links = links
    return result


def _result(ti_key: TaskInstanceKey, key: str) -> dict[str, Any]:
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_value(key=key, ti_key=ti_key) or {}


def _page(recipe_id: str) -> str:
    """Of the plugin's page "Packing"; a server below a path of its host says so in `[api] base_url`."""
    return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}/stowage/recipes/{recipe_id}" if recipe_id else ""
