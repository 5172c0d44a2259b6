"""Airflow's four components as separate processes on this machine: SQLite, LocalExecutor, one user with a password.

`airflow standalone` leaves its children behind when it is stopped and serves task logs on every interface.
"""

from __future__ import annotations

import base64
import json
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.airflow_api import AirflowApi
from demo.processes import Supervisor
from demo.servers import MlflowServer, ObjectStore
from demo.waiting import wait_until

USER = "admin"
START_SECONDS = 120
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}
DAGS = ("refresh_packed_dataset", "pretrain_bert")


@dataclass(frozen=True)
class Airflow:
    """A running Airflow and its login."""

    url: str
    user: str
    password: str
    api: AirflowApi


def airflow_environment(home: Path, repository: Path, port: int) -> dict[str, str]:
    """The configuration of all components; `home` holds the database and the logs."""
    options = {
        "core": {
            "dags_folder": str(repository / "dags"),
            "plugins_folder": str(repository / "plugins"),
            "load_examples": "False",
            "dags_are_paused_at_creation": "False",
            "executor": "LocalExecutor",
            "parallelism": "8",
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "execution_api_server_url": f"http://127.0.0.1:{port}/execution/",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": str(password_file(home)),
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"},
        "api": {
            "base_url": f"http://127.0.0.1:{port}",
            "host": "127.0.0.1",
            "port": str(port),
            "workers": "1",
            "secret_key": secrets.token_hex(32),
        },
        "api_auth": {"jwt_secret": secrets.token_hex(32)},
        "scheduler": {"scheduler_idle_sleep_time": "0.2", "enable_health_check": "False"},
        "dag_processor": {"refresh_interval": "10", "bundle_refresh_check_interval": "1", "parsing_processes": "2"},
        "logging": {"base_log_folder": str(home / "logs")},
        "usage_data_collection": {"enabled": "False"},
    }
    variables = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": value
        for section, values in options.items()
        for name, value in values.items()
    }
    return {"AIRFLOW_HOME": str(home), **variables}


def connections(store: ObjectStore, mlflow: MlflowServer) -> dict[str, str]:
    """Airflow's connections to the other services, as variables of its environment."""
    aws = {
        "conn_type": "aws",
        "login": store.access_key,
        "password": store.secret_key,
        "extra": {"endpoint_url": store.endpoint_url, "region_name": store.region},
    }
    tracking = {"conn_type": "http", "host": "127.0.0.1", "port": mlflow.port}
    return {"AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws), "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps(tracking)}


def password_file(home: Path) -> Path:
    """Where SimpleAuthManager looks for passwords; it makes missing ones itself."""
    return home / "passwords.json"


def set_password(home: Path) -> str:
    """Give the user a new random password."""
    password = secrets.token_urlsafe(12)
    file = password_file(home)
    file.touch(mode=0o600)
    file.write_text(json.dumps({USER: password}), encoding="utf-8")
    return password


def start_airflow(supervisor: Supervisor, environment: Mapping[str, str], password: str) -> Airflow:
    """Start the components on a migrated database; returns at once."""
    url = environment["AIRFLOW__API__BASE_URL"]
    supervisor.start("airflow api-server", airflow_command("api-server"), environment)
    for component, flags in COMPONENTS.items():
        supervisor.start(f"airflow {component}", airflow_command(component, *flags), environment)
    return Airflow(url, USER, password, AirflowApi(url, USER, password))


def wait_for_airflow(supervisor: Supervisor, airflow: Airflow) -> None:
    """Return once all components are healthy and the DAGs are there; raises DemoError if a DAG does not import."""
    wait_until(airflow.api.healthy, "Airflow to be healthy", supervisor, START_SECONDS)
    wait_until(lambda: airflow.api.has_dags(DAGS), f"Airflow to load {' and '.join(DAGS)}", supervisor, START_SECONDS)


def airflow_command(*arguments: str) -> list[str]:
    """Airflow's command line, by the interpreter that runs the demo."""
    return [sys.executable, "-m", "airflow", *arguments]
