from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.launchers.airflow_task import CANARY
from tests.launchers.cluster import FakeCluster, connection, running_cluster
from tests.plugin import importable_plugin


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """A cluster to which Airflow's connections lead, with canaries for their secrets."""
    from airflow.sdk.bases.operator import ExecutorSafeguard

    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    with importable_plugin(monkeypatch), running_cluster() as (cluster, url):
        aws = {"conn_type": "aws", "login": "AKIA" + CANARY, "password": CANARY}
        aws["extra"] = {"endpoint_url": "https://s3.example.org", "region_name": "here"}
        for name, value in {
            "KUBERNETES": connection(url, CANARY),
            "AWS": aws,
            "MLFLOW": {"conn_type": "https", "host": "mlflow.example.org", "login": "trainer", "password": CANARY},
        }.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{name}_DEFAULT", json.dumps(value))
        yield cluster
    cluster.settle()
    cluster.check_nothing_runs()
