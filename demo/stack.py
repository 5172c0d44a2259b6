"""The services of the demo, started side by side: object store, MLflow, Airflow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.airflow import (
    Airflow,
    airflow_command,
    airflow_environment,
    connections,
    set_password,
    start_airflow,
    wait_for_airflow,
)
from demo.display import Display
from demo.processes import Supervisor, free_port
from demo.raw_data import OPTIONS
from demo.servers import ARTIFACTS, MlflowServer, ObjectStore, start_mlflow, start_object_store
from packing.adapters import RoutedStorage
from packing.ports import Storage

REPOSITORY = Path(__file__).parent.parent
SOURCE = "s3://raw/docstrings/train"
HELD_OUT = "s3://raw/docstrings/held-out"
DESTINATION = "s3://packed/docstrings"
BUCKETS = ("raw", "packed", ARTIFACTS)
TRAINING = {
    "MODEL": "tiny",
    "STEPS": "40",
    "SEQUENCES_PER_STEP": "16",
    "VOCAB_SIZE": str(OPTIONS.vocabulary_size),
    "LEARNING_RATE": "0.02",  # high, so that 40 steps of a tiny model show that it learns
}
FOREIGN = ("AIRFLOW", "AWS_", "MLFLOW_", "STOWAGE_")


@dataclass(frozen=True)
class Stack:
    """What runs, and where; `storage` reaches the object store, `environment` lets a process do the same."""

    store: ObjectStore
    mlflow: MlflowServer
    airflow: Airflow
    storage: Storage
    environment: Mapping[str, str]


def start_stack(
    supervisor: Supervisor, display: Display, state: Path, while_airflow_starts: Callable[[Storage], None]
) -> Stack:
    """Start everything with its data below `state`; what is there already is kept."""
    home = state / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    base = plain_environment(os.environ)
    environment = {**base, **airflow_environment(home, REPOSITORY, free_port())}
    migration = supervisor.start_job("airflow-db-migrate", airflow_command("db", "migrate"), environment)
    with display.step("object store") as step:
        store = start_object_store(supervisor, state / "objects", BUCKETS, base)
        display.update(step, store.endpoint_url)
    with display.step("MLflow") as step:
        mlflow = start_mlflow(supervisor, state / "mlflow", store, base)
        display.update(step, mlflow.url)
    storage = RoutedStorage(lambda: s3_client(store))
    with display.step("Airflow", "migrating its database") as step:
        migration.wait()
        display.update(step, "starting")
        environment |= {**connections(store, mlflow), **dag_settings(state)}
        airflow = start_airflow(supervisor, environment, set_password(home))
        while_airflow_starts(storage)
        wait_for_airflow(supervisor, airflow)
        display.update(step, airflow.url)
    return Stack(store, mlflow, airflow, storage, {**base, **store.environment})


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without settings that would lead the services elsewhere, and without telemetry."""
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(FOREIGN) and not name.lower().endswith("_proxy")
    }
    return {**kept, "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}


def dag_settings(state: Path) -> dict[str, str]:
    """Defaults of the DAGs' forms (`stowage_airflow.settings`); there is no schedule."""
    values = {
        "SOURCE": SOURCE,
        "DESTINATION": DESTINATION,
        "PARALLEL_TASKS": str(os.cpu_count() or 1),
        "TRAIN_MODEL_DIR": str(state / "checkpoints"),
        **{f"TRAIN_{name}": value for name, value in TRAINING.items()},
    }
    return {f"STOWAGE_{name}": value for name, value in values.items()}


def s3_client(store: ObjectStore) -> Any:
    """A client of the object store that takes nothing from this process's environment."""
    import boto3

    from packing.adapters.s3 import client_config

    session = boto3.session.Session(store.access_key, store.secret_key, region_name=store.region)
    return session.client("s3", endpoint_url=store.endpoint_url, config=client_config())
