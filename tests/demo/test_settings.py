"""The environment in which the demo's services run."""

from __future__ import annotations

import json
from pathlib import Path

from demo.airflow import airflow_environment, connections, set_password
from demo.servers import MlflowServer, ObjectStore
from demo.stack import DESTINATION, SOURCE, dag_settings, plain_environment


def test_settings_of_the_caller_do_not_reach_the_services() -> None:
    foreign = ("AWS_PROFILE", "AIRFLOW__CORE__EXECUTOR", "AIRFLOW_HOME", "MLFLOW_TRACKING_URI", "STOWAGE_SCHEDULE")
    environment = plain_environment(
        {"PATH": "/bin", "http_proxy": "x", "HTTPS_PROXY": "x", **dict.fromkeys(foreign, "x")}
    )
    assert environment["PATH"] == "/bin"
    assert {"http_proxy", "HTTPS_PROXY", *foreign}.isdisjoint(environment)
    assert environment["DO_NOT_TRACK"] == "1"


def test_airflow_listens_on_this_machine_only_and_keeps_its_files_in_its_home(tmp_path: Path) -> None:
    environment = airflow_environment(tmp_path / "home", tmp_path / "repository", 1234)
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:1234/execution/"
    assert environment["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert str(tmp_path / "home") in environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    other = airflow_environment(tmp_path / "home", tmp_path / "repository", 1234)
    secrets = ("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET")
    assert all(environment[name] != other[name] for name in secrets)


def test_connections_name_the_services() -> None:
    variables = connections(ObjectStore("http://127.0.0.1:1", "key", "secret"), MlflowServer("http://127.0.0.1:2", 2))
    aws, mlflow = (json.loads(variables[f"AIRFLOW_CONN_{name}_DEFAULT"]) for name in ("AWS", "MLFLOW"))
    assert (aws["login"], aws["password"]) == ("key", "secret")
    assert aws["extra"]["endpoint_url"] == "http://127.0.0.1:1"
    assert (mlflow["conn_type"], mlflow["host"], mlflow["port"]) == ("http", "127.0.0.1", 2)


def test_dag_settings_are_those_that_the_dags_read(tmp_path: Path) -> None:
    environment = dag_settings(tmp_path)
    assert environment["STOWAGE_SOURCE"] == SOURCE
    assert environment["STOWAGE_DESTINATION"] == DESTINATION
    assert "STOWAGE_SCHEDULE" not in environment
    assert environment["STOWAGE_TRAIN_MODEL_DIR"].startswith(str(tmp_path))


def test_every_start_has_another_password_that_others_cannot_read(tmp_path: Path) -> None:
    first, second = set_password(tmp_path), set_password(tmp_path)
    assert first != second
    file = tmp_path / "passwords.json"
    assert json.loads(file.read_text()) == {"admin": second}
    assert file.stat().st_mode & 0o077 == 0
