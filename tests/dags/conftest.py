"""An Airflow of the tests' own: a database in a temporary folder, the repository's DAGs and plugins."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.servers import MlflowServer, ObjectStore
from packing.adapters import open_storage
from packing.in_memory import MemoryTracker
from tests.builders import random_sizes, raw_shard
from tests.dags.refreshing import PARAMS
from tests.plugin import importable_plugin

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Airflow:
    """Runs DAGs with `dag.test()`, each in a process of its own, as Airflow configures itself once, on import."""

    environment: Mapping[str, str]

    def run(self, *requests: tuple[str, dict[str, Any]] | tuple[str, dict[str, Any], str]) -> list[dict[str, Any]]:
        """For each (DAG id, conf) in turn: the run's `state`, its `tasks`' states, asset `events`, and the `log`.

        A third entry answers the question that the run asks; `asked` has the question and the two responses to that.
        """
        script = str(Path(__file__).with_name("run_dag.py"))
        command = [sys.executable, script, json.dumps(requests)]
        done = subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-8000:]
        # Listeners may still print behind it.
        outcomes = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith('[{"state"')))
        logs = re.split(r"^--- request \d+ ---$", done.stdout, flags=re.MULTILINE)[1:]
        return [{**outcome, "log": log} for outcome, log in zip(outcomes, logs, strict=True)]


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="session")
def airflow_environment(airflow_home: Path) -> dict[str, str]:
    """Airflow on a migrated database of its own, before any connection or setting of ours."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "plugins"), str(REPOSITORY)]),
    }
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    return environment


@pytest.fixture
def airflow(
    airflow_environment: dict[str, str], object_store: ObjectStore, mlflow_server: MlflowServer, tmp_path: Path
) -> Airflow:
    """Connected to the tests' object store and MLflow, for a dataset of the test's own."""
    aws = {
        "conn_type": "aws",
        "login": object_store.access_key,
        "password": object_store.secret_key,
        "extra": {"endpoint_url": object_store.endpoint_url, "region_name": object_store.region},
    }
    return Airflow(
        {
            **airflow_environment,
            "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws),
            "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps(
                {"conn_type": "http", "host": "127.0.0.1", "port": mlflow_server.port}
            ),
            "STOWAGE_SOURCE": f"s3://raw/{tmp_path.name}",
            "STOWAGE_DESTINATION": f"s3://packed/{tmp_path.name}",
            "STOWAGE_TRAIN_MODEL": "tiny",
            "STOWAGE_TRAIN_MODEL_DIR": f"s3://packed/{tmp_path.name}-models",
            "STOWAGE_TRAIN_VOCAB_SIZE": "1000",
            "STOWAGE_TRAIN_STEPS": "3",
            "STOWAGE_TRAIN_SEQUENCES_PER_STEP": "8",
        }
    )


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with importable_plugin(monkeypatch):
        from stowage_airflow import stages

        yield stages


@pytest.fixture
def audits(stages: Any) -> Any:  # noqa: ARG001 - which finds the plugin, and forgets it
    from stowage_airflow import audits

    return audits


@pytest.fixture
def refreshed(
    stages: Any, audits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], MemoryTracker]:
    """The params of a refresh in folders, which an audit's own process can read too, and its tracker."""
    tracker = MemoryTracker()
    for module in (stages, audits):
        monkeypatch.setattr(module, "open_storage", open_storage)
        monkeypatch.setattr(module, "open_tracker", lambda: tracker)
    monkeypatch.setattr(stages, "signing_key", lambda: None)
    (tmp_path / "raw").mkdir()
    for i in range(6):
        (tmp_path / "raw" / f"part-{i}").write_bytes(raw_shard(random_sizes(30, seed=i), seed=i))
    return {**PARAMS, "source": str(tmp_path / "raw"), "destination": str(tmp_path / "out")}, tracker
