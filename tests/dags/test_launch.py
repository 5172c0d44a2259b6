"""`pretrain_bert` with a Kubernetes launcher, by Airflow's own task runner and triggers, on a cluster without nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dags.conftest import Airflow
from tests.launchers.cluster import JOBS, FakeCluster, connection, running_cluster
from tests.launchers.kubelet import container, started

pytestmark = pytest.mark.slow

CANARY = "CANARY4b1d"
FIGURES = {"steps": 3, "run_id": "r1"}
REQUEST = {
    "data": "s3://packed/books/manifests/1f.json",
    "model_dir": "s3://models",
    "launcher": "kubernetes-gpu",
    "image": "registry.example.org/train:1",
    "workers": 2,
    "devices": 8,
    "launch_options": "--secret-env AWS_SECRET_ACCESS_KEY=s3:secret --priority-class batch",
}


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with running_cluster() as (cluster, _):
        yield cluster
    cluster.check_nothing_runs()


@pytest.fixture
def airflow(airflow_environment: dict[str, str], cluster: FakeCluster) -> Airflow:
    connections: dict[str, Any] = {
        "KUBERNETES": connection(str(cluster.url), CANARY),
        "AWS": {
            "conn_type": "aws",
            "login": "AKIA" + CANARY,
            "password": CANARY,
            "extra": {"endpoint_url": "https://s3.example.org", "region_name": "here"},
        },
        "MLFLOW": {"conn_type": "https", "host": "mlflow.example.org", "login": "trainer", "password": CANARY},
    }
    variables = {f"AIRFLOW_CONN_{name}_DEFAULT": json.dumps(value) for name, value in connections.items()}
    return Airflow({**airflow_environment, **variables})


def plays(*lines: str, status: int = 0) -> Any:
    """Both workers start and end at once; the chief prints `lines`."""

    def step(cluster: FakeCluster) -> None:
        cluster.run()
        if not status:
            cluster.end(1)
        cluster.say(0, *lines)
        cluster.end(0, status)

    return step


def test_a_run_on_a_cluster_gives_figures_progress_and_a_link(airflow: Airflow, cluster: FakeCluster) -> None:
    cluster.play = [plays("step 3  sequences 24", json.dumps(FIGURES))]
    (outcome,) = airflow.run(("pretrain_bert", REQUEST))
    assert outcome["state"] == "success", outcome["log"]
    assert "step 3  sequences 24" in outcome["log"]
    values = {entry["key"]: entry["value"] for entry in outcome["xcoms"] if entry["task"] == "train"}
    assert FIGURES.items() <= values["return_value"].items()
    assert values["_link_MlflowRunLink"] == "https://mlflow.example.org/#/runs/r1"

    command, environment = started(cluster.job(), 1)
    assert {"s3://packed/books/manifests/1f.json", "s3://models/1f", "multi-worker"} <= set(command)
    assert json.loads(environment["TF_CONFIG"])["task"]["index"] == 1
    assert container(cluster.job())["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert cluster.job()["spec"]["template"]["spec"]["priorityClassName"] == "batch"
    assert cluster.job()["metadata"]["labels"]["task_id"] == "train"
    for text in (json.dumps(cluster.created), outcome["log"], json.dumps(outcome["xcoms"])):
        assert CANARY not in text


def test_a_run_that_fails_is_linked_as_well(airflow: Airflow, cluster: FakeCluster) -> None:
    cluster.play = [plays("MLflow run 4f2a", "step 1", "error: data: expected packs, found none", status=3)]
    (outcome,) = airflow.run(("pretrain_bert", REQUEST))
    assert outcome["state"] == "failed"
    values = {entry["key"]: entry["value"] for entry in outcome["xcoms"] if entry["task"] == "train"}
    assert values["_link_MlflowRunLink"] == "https://mlflow.example.org/#/runs/4f2a"
    assert values["mlflow_run_id"] == "4f2a"


def test_bad_data_and_bad_requests_fail_without_retries(airflow: Airflow, cluster: FakeCluster) -> None:
    cluster.play = [plays("error: data: expected packs, found none", status=3)]
    expected = {
        "worker 0 ended with status 3: error: data: expected packs, found none": {},
        'namespaces "nowhere" not found': {"namespace": "nowhere"},
        "got --no-such": {"launch_options": "--no-such"},
    }
    outcomes = airflow.run(*(("pretrain_bert", {**REQUEST, **changes}) for changes in expected.values()))
    for outcome, message in zip(outcomes, expected, strict=True):
        assert outcome["state"] == "failed"
        assert outcome["tasks"]["train"] == ["failed"]
        assert message in outcome["log"]
    assert len(cluster.all(JOBS)) == 1
