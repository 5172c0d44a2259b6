"""No route answers those who may not read the refresh DAG's runs, under both of Airflow's own auth managers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.page.builders import small_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
MANAGERS = {
    "simple": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
    "fab": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
}

Answers: TypeAlias = "dict[str, list[tuple[str, str, int, str]]]"


@pytest.fixture(scope="module", params=MANAGERS)
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What every route said to everybody."""
    home = tmp_path_factory.mktemp(request.param)
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__AUTH_MANAGER": MANAGERS[request.param],
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of this test, long enough for its signature: 0123456789",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "http", "host": "mlflow.example.org"}),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "plugins")]),
        "_AIRFLOW_PROCESS_CONTEXT": "server",  # as the API server's own entry point has it
    }
    for command in (["-m", "airflow", "db", "migrate"], ["-m", "airflow", "dags", "reserialize"]):
        subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True, timeout=300)
    command = [sys.executable, str(Path(__file__).with_name("walk.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-8000:]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def statuses(answers: Iterable[Any]) -> set[int]:
    return {status for _, _, status, _ in answers}


@pytest.mark.slow
def test_no_route_answers_those_without_the_right(answers: Answers) -> None:
    told = [recipe_id := small_recipe().recipe_id, recipe_id[:12], "s3://", "speed-up", "--ground"]
    assert statuses(answers["nobody"]) == {401}
    assert statuses(answers["no rights"]) == {403}
    for caller in ("nobody", "no rights"):
        assert len(answers[caller]) > 80
        for method, path, _, body in answers[caller]:
            assert not [word for word in told if word in body], (caller, method, path)


@pytest.mark.slow
def test_every_route_answers_those_with_the_right_and_only_what_it_has(answers: Answers) -> None:
    recipe_id = small_recipe().recipe_id
    found = {path: status for method, path, status, _ in answers["viewer"] if method == "GET"}
    own = f"/stowage/recipes/{recipe_id}"
    expected = {"/stowage/", own, f"{own}/recipe.json", f"{own}/manifest.json", "/stowage/refresh"}
    assert expected <= {path for path, status in found.items() if status == 200}
    assert sum(status == 200 for status in found.values()) == len(expected) + 2  # a comparison and a style sheet
    assert {status for path, status in found.items() if status != 200} == {404}
    heads = {path: (status, body) for method, path, status, body in answers["viewer"] if method == "HEAD"}
    assert heads == {path: (status, "") for path, status in found.items()}
    assert statuses(answer for answer in answers["viewer"] if answer[0] not in {"GET", "HEAD"}) == {404}


@pytest.mark.slow
def test_only_who_may_trigger_the_dag_has_buttons_that_work(answers: Answers) -> None:
    form = {
        caller: next(body for method, path, _, body in found if (method, path) == ("GET", "/stowage/refresh"))
        for caller, found in answers.items()
        if caller in {"viewer", "user"}
    }
    assert 'id="refused"' in form["viewer"]
    assert 'class="primary" disabled' in form["viewer"]
    assert 'id="refused"' not in form["user"]
    assert 'class="primary">' in form["user"]


@pytest.mark.slow
def test_trainings_are_for_those_who_may_read_their_dag(answers: Answers) -> None:
    def pages(caller: str) -> list[str]:
        wanted = {"/stowage/", f"/stowage/recipes/{small_recipe().recipe_id}"}
        return [body for method, path, _, body in answers[caller] if method == "GET" and path in wanted]

    assert len(pages("viewer")) == 2
    assert all("measured speed-up" in body for body in pages("viewer"))
    if "recipes only" in answers:
        assert len(pages("recipes only")) == 2
        assert not any("measured speed-up" in body for body in pages("recipes only"))
