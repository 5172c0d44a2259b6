"""Airflow with the Packing page, MLflow and an object store, with users of several roles and some packed datasets."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.airflow import (
    USER,
    airflow_command,
    airflow_environment,
    connections,
    password_file,
    start_airflow,
    wait_for_airflow,
)
from demo.airflow_api import AirflowApi
from demo.processes import Supervisor, free_port
from demo.servers import MlflowServer, ObjectStore
from demo.stack import plain_environment, s3_client
from packing.adapters import RoutedStorage
from packing.ports import Storage

REPOSITORY = Path(__file__).resolve().parents[2]
READER = "reader"
ROLES = {USER: "admin", READER: "viewer"}
COMMAND_SECONDS = 300


@dataclass(frozen=True)
class Site:
    """What runs, and where; `environment` lets commands reach the object store and MLflow."""

    url: str
    passwords: Mapping[str, str]
    api: AirflowApi
    storage: Storage
    environment: Mapping[str, str]

    def run(self, *arguments: str) -> dict[str, Any]:
        """The result of one of Stowage's own commands, such as `packing run SOURCE DESTINATION`."""
        command = [sys.executable, "-m", *arguments, "--json"]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result


def start_site(
    supervisor: Supervisor, store: ObjectStore, mlflow: MlflowServer, home: Path, settings: Mapping[str, str]
) -> Site:
    """Start Airflow with its database below `home`; `settings` are defaults of the DAGs' forms."""
    home.mkdir(parents=True, exist_ok=True)
    base = plain_environment(os.environ)
    passwords = {name: secrets.token_urlsafe(12) for name in ROLES}
    password_file(home).write_text(json.dumps(passwords), encoding="utf-8")
    environment = {
        **base,
        **airflow_environment(home, REPOSITORY, free_port()),
        **connections(store, mlflow),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in ROLES.items()),
        **settings,
    }
    supervisor.start_job("airflow-db-migrate", airflow_command("db", "migrate"), environment).wait()
    airflow = start_airflow(supervisor, environment, passwords[USER])
    wait_for_airflow(supervisor, airflow)
    return Site(
        airflow.url,
        passwords,
        airflow.api,
        RoutedStorage(lambda: s3_client(store)),
        {**base, **store.environment, "MLFLOW_TRACKING_URI": mlflow.url},
    )
