"""MLflow's model registry, of which Stowage needs one thing: a name, its versions, and which of them is current."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALIAS = "current"


def set_current(client: Any, name: str, run_id: str, tags: Mapping[str, str], description: str) -> str:
    """As `packing.ports.Tracker.set_current`, with MLflow's errors."""
    from mlflow.exceptions import MlflowException

    try:
        current = client.get_registered_model(name).aliases.get(ALIAS)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        _register(client, name, description)
        current = None
    versions = _versions(client, name)
    # The first of several, should two processes have made one at the same time.
    matching = sorted(number for number, own in versions.items() if tags.items() <= own.items())
    if matching:
        version = matching[0]
    else:
        source = f"runs:/{run_id}/recipe"
        made = client.create_model_version(name, source, run_id=run_id, tags=dict(tags), await_creation_for=0)
        version = int(made.version)
    if current is None or int(current) != version:
        client.set_registered_model_alias(name, ALIAS, str(version))
    return str(version)


def find_current(client: Any, name: str) -> Mapping[str, str]:
    """As `packing.ports.Tracker.find_current`, with MLflow's errors."""
    from mlflow.exceptions import MlflowException

    try:
        number = client.get_registered_model(name).aliases.get(ALIAS)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        number = None
    return dict(client.get_model_version(name, str(number)).tags) if number else {}


def _register(client: Any, name: str, description: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=description)
    except MlflowException as exc:
        # Somebody else made it between the two requests.
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _versions(client: Any, name: str) -> dict[int, dict[str, str]]:
    """The tags of all versions, by number."""
    found: dict[int, dict[str, str]] = {}
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
        found.update({int(version.version): dict(version.tags) for version in page})
        token = page.token
        if not token:
            return found
