"""Asks every route of the mounted page for something, as everybody in turn, under Airflow's real authorization.

In a process of its own, as Airflow configures itself once, on import. Prints one JSON object:
{caller: [[method, path, status, body], ...]}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from airflow.api_fastapi.app import create_app, get_auth_manager
from airflow.configuration import conf
from fastapi.routing import APIRoute, Mount
from starlette.testclient import TestClient

from packing.in_memory import MemoryTracker
from tests.page.builders import small_recipe, track, track_training

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "QUERY", "FOO")


def main() -> None:
    tracker = MemoryTracker()
    recipe = small_recipe()
    runs = [track(tracker, recipe, destination=f"s3://packed/{name}") for name in ("one", "two")]
    track_training(tracker, recipe.recipe_id, speedup=1.75)
    outer = create_app(apps="core")
    (mounted,) = [route for route in outer.routes if isinstance(route, Mount) and route.path == "/stowage"]
    from stowage_airflow.page.app import page_tracker
    from stowage_airflow.page.render import digest_of

    mounted.app.dependency_overrides[page_tracker] = lambda: tracker
    values = {"recipe_id": recipe.recipe_id, "digest": digest_of("page.css"), "name": "page.css", "path": "elsewhere"}
    both = "&".join(f"recipe={recipe.recipe_id}:{run.run_id}" for run in runs)
    paths = [path_of(route, values, both) for route in mounted.app.routes]
    client = TestClient(outer, raise_server_exceptions=False)
    with ExitStack() as stack:
        users = fab_users(stack) if "fab" in conf.get("core", "auth_manager").lower() else simple_users()
        tokens = {name: get_auth_manager().generate_jwt(user) for name, user in users.items()}
    answers = {name: list(walk(client, paths, token)) for name, token in {"nobody": "", **tokens}.items()}
    sys.stdout.write("\n" + json.dumps(answers) + "\n")


def path_of(route: Any, values: Mapping[str, str], both: str) -> str:
    """An address that the route answers, with two records where it compares."""
    assert isinstance(route, APIRoute), f"a route of another kind: {route}"
    path = "/stowage" + route.path.replace("{path:path}", "{path}").format(**values)
    return f"{path}?{both}" if "compare" in path else path


def walk(client: TestClient, paths: list[str], token: str) -> Iterator[tuple[str, str, int, str]]:
    extra = ["/stowage/docs", "/stowage/redoc", "/stowage/openapi.json", "/stowage/recipes"]
    for path in [*paths, *extra]:
        for method in METHODS:
            client.cookies = {"_token": token} if token else {}
            answer = client.request(method, path)
            yield method, path, answer.status_code, answer.text


def simple_users() -> dict[str, Any]:
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    roles = {"no rights": None, "viewer": "viewer", "user": "user"}
    return {name: SimpleAuthManagerUser(username=name, role=role) for name, role in roles.items()}


def fab_users(stack: ExitStack) -> dict[str, Any]:
    """Users of FAB's own roles, and one who may read the refresh DAG and its runs but no other DAG."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    manager = stack.enter_context(get_application_builder()).sm
    allowed = [("can_read", "DAG:refresh_packed_dataset"), ("can_read", "DAG Runs")]
    narrow = manager.add_role("Recipes")
    for action, resource in allowed:
        manager.add_permission_to_role(narrow, manager.create_permission(action, resource))
    roles = {"no rights": "Public", "viewer": "Viewer", "user": "User", "recipes only": "Recipes"}
    for name, role in roles.items():
        added = manager.add_user(name, name, name, f"{name.split()[0]}@example.org", manager.find_role(role), "secret")
        assert added, name
    return {name: manager.find_user(username=name) for name in roles}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))
    main()
