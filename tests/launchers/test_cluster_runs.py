"""The training task on a cluster: what Airflow does with operator and trigger, against kmock's API server."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.launchers.cluster import EVENTS, JOBS, NAMESPACE, PODS, SERVICES, FakeCluster, connection, running_cluster
from tests.launchers.kubelet import container, started

pytestmark = pytest.mark.slow  # importing Airflow and the provider takes seconds

CANARY = "CANARY4b1d"
FIGURES = {"steps": 3, "run_id": "r1"}
RUN = FakeCluster.run


def say(index: int, *lines: str) -> Any:
    return lambda cluster: cluster.say(index, *lines)


def end(index: int, status: int = 0, *lines: str) -> Any:
    return lambda cluster: (cluster.say(index, *lines), cluster.end(index, status))


def succeed(workers: int = 2) -> list[Any]:
    """All workers start, and are done; the chief's result is not the last that its process prints."""
    others = [end(index) for index in range(1, workers)]
    return [RUN, *others, end(0, 0, "step 3  sequences 24", json.dumps(FIGURES), "bye")]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """A cluster to which Airflow's connections lead, with canaries for their secrets."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "plugins"))
    from airflow.sdk.bases.operator import ExecutorSafeguard

    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    with running_cluster() as (cluster, url):
        aws = {"conn_type": "aws", "login": "AKIA" + CANARY, "password": CANARY}
        aws["extra"] = {"endpoint_url": "https://s3.example.org", "region_name": "here"}
        for name, value in {
            "KUBERNETES": connection(url, CANARY),
            "AWS": aws,
            "MLFLOW": {"conn_type": "https", "host": "mlflow.example.org", "password": CANARY},
        }.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{name}_DEFAULT", json.dumps(value))
        yield cluster
    cluster.settle()
    cluster.check_nothing_runs()
    for name in [name for name in sys.modules if name.startswith("stowage_airflow")]:
        del sys.modules[name]


def operator(launcher: str = "kubernetes-gpu", workers: int = 2, **launch: Any) -> Any:
    from stowage_airflow.operators import LaunchTrainingOperator

    return LaunchTrainingOperator(
        task_id="train",
        command="train",
        options={"data": "s3://packed/manifests/1.json", "model_dir": "s3://models/1", "strategy": "cpu", "xla": False},
        launcher=launcher,
        launch={"workers": workers, "image": "registry.example.org/train:1", **launch},
    )


def context(run_id: str = "manual__2026-01-01T00:00:00+00:00", map_index: int = -1) -> Any:
    return {"ti": SimpleNamespace(dag_id="pretrain_bert", task_id="train", run_id=run_id, map_index=map_index)}


def defer(task: Any, **settings: Any) -> Any:
    """Launch, and make the trigger as a triggerer would: from text."""
    from airflow.sdk.exceptions import TaskDeferred

    from stowage_airflow.triggers import TrainingTrigger

    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context())
    path, arguments = deferred.value.trigger.serialize()
    assert path == "stowage_airflow.triggers.TrainingTrigger"
    assert deferred.value.method_name == "finish"
    arguments = json.loads(json.dumps(arguments))
    return TrainingTrigger(**{**arguments, "poll_seconds": 0.01, **settings})


def watch(trigger: Any) -> dict[str, Any]:
    async def first() -> Any:
        return await anext(trigger.run())

    return dict(asyncio.run(first()).payload)


def attempt(task: Any, **settings: Any) -> dict[str, Any]:
    """One try of a task: its figures, or what it raises."""
    return dict(task.finish(context(), watch(defer(task, **settings))))


def fails(task: Any, *, retry: bool, **settings: Any) -> str:
    """The message of a try that fails: of one line, and with retries or without."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    with pytest.raises(AirflowException) as failed:
        attempt(task, **settings)
    assert isinstance(failed.value, AirflowFailException) != retry, failed.value
    message = str(failed.value)
    assert "\n" not in message
    return message


def progress(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of steps in the task's log."""
    return re.findall(r"\] (step \S.*?) +\[stowage", capfd.readouterr().out)


@pytest.mark.parametrize(
    ("launcher", "workers", "strategy"),
    [("kubernetes-gpu", 1, "mirrored"), ("kubernetes-gpu", 3, "multi-worker"), ("kubernetes-gaudi", 2, "hpu")],
)
def test_a_run_gives_its_figures_and_its_progress(
    cluster: FakeCluster, launcher: str, workers: int, strategy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.play = [RUN, say(0, "step 1", "step 2"), lambda _: None, say(0, "step 2"), *succeed(workers)]
    assert attempt(operator(launcher, workers)) == FIGURES

    assert progress(capfd) == ["step 1", "step 2", "step 2", "step 3  sequences 24"]
    command, environment = started(cluster.job(), 0)
    assert command[:5] == ["python", "-m", "training", "train", "--json"]
    assert command[-2:] == ["--strategy", strategy]
    assert container(cluster.job())["image"] == "registry.example.org/train:1"
    assert environment["AWS_ENDPOINT_URL"] == "https://s3.example.org"
    assert environment["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"
    labels = cluster.job()["metadata"]["labels"]
    assert (labels["dag_id"], labels["task_id"]) == ("pretrain_bert", "train")
    assert len(cluster.all(SERVICES)) == (workers > 1)


def test_the_service_goes_with_its_job(cluster: FakeCluster) -> None:
    cluster.play = succeed()
    attempt(operator())
    (service,) = cluster.all(SERVICES)
    assert [owner["uid"] for owner in service["metadata"]["ownerReferences"]] == [cluster.job()["metadata"]["uid"]]


def test_tries_share_a_job_name_and_others_do_not(cluster: FakeCluster) -> None:
    from stowage_airflow.launch import TaskKey

    assert cluster.all(JOBS) == []
    keys = [
        TaskKey("d" * 90, "t", "r"),
        TaskKey("d" * 90, "t", "s"),
        TaskKey("d", "t", "r", 0),
        TaskKey("d", "t", "r", 1),
    ]
    names = [key.job_name for key in keys]
    assert len(set(names)) == 4
    assert names == [TaskKey(**vars(key)).job_name for key in keys]
    assert max(map(len, names)) <= 53


def test_a_retry_finds_the_job_that_runs(cluster: FakeCluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cluster.play = [RUN]
    defer(operator())  # whose worker, or triggerer, is then lost
    uid = cluster.job()["metadata"]["uid"]
    cluster.forget(SERVICES)  # as if the worker was lost before it made it
    cluster.play = succeed()
    assert attempt(operator()) == FIGURES
    assert cluster.job()["metadata"]["uid"] == uid
    assert "no other is started" in caplog.text
    assert len(cluster.all(SERVICES)) == 1


def test_a_retry_takes_the_result_of_a_job_that_is_done(cluster: FakeCluster) -> None:
    cluster.play = succeed()
    assert attempt(operator()) == attempt(operator()) == FIGURES
    assert [manifest["kind"] for manifest in cluster.created] == ["Job", "Service"]


def test_a_retry_replaces_a_job_that_failed(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from stowage_airflow import launching

    monkeypatch.setattr(launching, "POLL_SECONDS", 0.01)
    cluster.play = [RUN, end(0, 1, "error: out of luck")]
    assert "error: out of luck" in fails(operator(launch_options="--restarts 0"), retry=True)
    uid = cluster.job()["metadata"]["uid"]
    cluster.play = succeed()
    assert attempt(operator()) == FIGURES
    assert cluster.job()["metadata"]["uid"] != uid


@pytest.mark.parametrize("status", [2, 3, 4])
def test_a_failure_that_stays_is_not_retried(cluster: FakeCluster, status: int) -> None:
    cluster.play = [RUN, end(1, 42, "error: another worker is gone"), RUN, end(0, status, "working", "error: no good")]
    message = fails(operator(), retry=False)
    assert f"worker 0 ended with status {status}: error: no good" in message


def test_a_stopped_worker_starts_again_and_is_followed(cluster: FakeCluster, capfd: pytest.CaptureFixture[str]) -> None:
    stopped = [say(0, "step 1"), end(0, 42, "step 2"), end(1, 42)]
    cluster.play = [RUN, *stopped, RUN, lambda c: c.evict(1), RUN, lambda c: c.lose(0), RUN, *succeed()[1:]]
    assert attempt(operator(launch_options="--restarts 0")) == FIGURES
    assert progress(capfd) == ["step 1", "step 2", "step 3  sequences 24"]


def test_a_job_that_somebody_deletes_is_retried(cluster: FakeCluster) -> None:
    cluster.play = [RUN, FakeCluster.delete_by_hand]
    assert "was deleted" in fails(operator(), retry=True)


UNSCHEDULABLE = {
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available:\n3 Insufficient nvidia.com/gpu.",
        }
    ]
}
NO_IMAGE = {
    "containerStatuses": [
        {
            "name": "training",
            "image": "x",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "train:1"'}},
        }
    ]
}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (UNSCHEDULABLE, "worker 1: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        (NO_IMAGE, 'worker 1: ImagePullBackOff: Back-off pulling image "train:1"'),
    ],
)
def test_workers_that_cannot_start_end_the_run_with_the_reason(
    cluster: FakeCluster, status: dict[str, Any], words: str
) -> None:
    cluster.play = [lambda c: (c.run(), c.complain(1, phase="Pending", **status))]
    message = fails(operator(), retry=False, start_timeout=0.05)
    assert "1 of 2 workers do not run after 0.05 s" in message
    assert words in message
    assert "deletionTimestamp" in cluster.job()["metadata"]


def test_a_quota_that_the_pods_exceed_is_named(cluster: FakeCluster) -> None:
    cluster.quota = 'Error creating: pods "x" is forbidden: exceeded quota: gpus, requested: 2, used: 8, limited: 8'
    message = fails(operator(), retry=False, start_timeout=0.05)
    assert "2 of 2 workers" in message
    assert f"FailedCreate: {cluster.quota}" in message
    assert len(cluster.all(EVENTS)) == 1


@pytest.mark.usefixtures("cluster")
def test_workers_that_are_silent_are_tried_again() -> None:
    assert "no reason is known" in fails(operator(), retry=True, start_timeout=0.05)


@pytest.mark.parametrize(
    ("request_of", "status", "retry"),
    [
        (("create", "jobs"), 403, False),
        (("create", "jobs"), 422, False),
        (("create", "services"), 403, False),
        (("create", "jobs"), 503, True),
        (("create", "services"), 500, True),
        (("fetch", "jobs"), 401, False),
        (("list", "pods"), 403, False),
    ],
)
def test_refusals_are_passed_on_in_one_line(
    cluster: FakeCluster, request_of: tuple[str, str], status: int, *, retry: bool
) -> None:
    words = 'jobs.batch is forbidden: User "me" cannot do this:\n exceeded quota'
    cluster.refusals[request_of] = [(status, words)]
    message = fails(operator(), retry=retry)
    assert 'is forbidden: User "me" cannot do this: exceeded quota' in message
    assert f"status {status}" in message
    assert f"namespace {NAMESPACE}" in message
    if request_of == ("list", "pods"):  # who may not see pods learns it only when the Job is there
        cluster.delete_by_hand()
    cluster.settle()
    assert cluster.all(JOBS) == []


def test_a_missing_namespace_is_named(cluster: FakeCluster) -> None:
    assert 'namespaces "nowhere" not found' in fails(operator(namespace="nowhere"), retry=False)
    assert cluster.created == []


@pytest.mark.parametrize(
    ("launcher", "launch", "words"),
    [
        ("slurm", {}, "expected one of local, kubernetes-gpu, kubernetes-gaudi, got 'slurm'"),
        ("kubernetes-gpu", {"image": "two words"}, "image: expected"),
        ("kubernetes-gaudi", {"devices": 8}, "devices"),
        ("kubernetes-gpu", {"launch_options": "--no-such 1"}, "got --no-such"),
        ("kubernetes-gpu", {"launch_options": "--env 'X"}, "as in a shell"),
    ],
)
def test_what_cannot_work_is_not_sent(cluster: FakeCluster, launcher: str, launch: dict[str, Any], words: str) -> None:
    assert words in fails(operator(launcher, **launch), retry=False)
    assert list(cluster) == []


def test_a_short_absence_of_the_api_server_is_waited_out(
    cluster: FakeCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.play = succeed()
    cluster.refusals["list", "pods"] = [(0, ""), (500, "etcdserver: leader changed"), (503, "busy"), (0, "")]
    assert attempt(operator()) == FIGURES
    assert capfd.readouterr().out.count("asking again") == 2


def test_a_killed_trigger_deletes_the_job(cluster: FakeCluster) -> None:
    cluster.play = [RUN]
    trigger = defer(operator())

    async def watch_and_kill() -> None:
        run = asyncio.ensure_future(anext(trigger.run()))
        while not cluster.pods(phase="Running"):
            await asyncio.sleep(0.01)
        run.cancel("user-action")
        await asyncio.gather(run, return_exceptions=True)
        assert "deletionTimestamp" not in cluster.job()["metadata"]
        await trigger.on_kill()

    asyncio.run(watch_and_kill())
    assert "deletionTimestamp" in cluster.job()["metadata"]


def test_a_cleared_task_waits_for_the_old_job_and_starts_another(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stowage_airflow import launching

    monkeypatch.setattr(launching, "POLL_SECONDS", 0.01)
    asyncio.run(defer(operator()).on_kill())
    uid = cluster.job()["metadata"]["uid"]
    cluster.play = succeed()
    assert attempt(operator()) == FIGURES
    assert cluster.job()["metadata"]["uid"] != uid


def test_a_task_that_is_stopped_while_it_launches_leaves_nothing(cluster: FakeCluster) -> None:
    from airflow.sdk.exceptions import AirflowException

    task = operator()
    task.on_kill()
    with pytest.raises(AirflowException, match="stopped"):
        task.execute(context())
    assert cluster.created == []


def test_no_secret_reaches_the_cluster_the_log_or_xcom(cluster: FakeCluster, capfd: pytest.CaptureFixture[str]) -> None:
    cluster.play = succeed()
    trigger = defer(operator(launch_options="--secret-env AWS_SECRET_ACCESS_KEY=s3:secret"))
    event = watch(trigger)
    assert "secretKeyRef" in json.dumps(cluster.created)
    assert "".join(request.headers["Authorization"] for request in cluster).count(CANARY) == len(list(cluster))
    for text in ([request.text for request in cluster], cluster.created, trigger.serialize(), event):
        assert CANARY not in json.dumps(text)
    said = "".join(capfd.readouterr())
    assert "step 3" in said
    assert CANARY not in said
    typo = f"--secrete-env AWS_SECRET_ACCESS_KEY={CANARY}"
    for options in (typo, f"--env AWS_SECRET_ACCESS_KEY={CANARY}", f"--env X=https://me:{CANARY}@host"):
        assert CANARY not in fails(operator(launch_options=options), retry=False)


def test_missing_connections_are_named(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT")
    assert "connection kubernetes_default" in fails(operator(), retry=False)
    assert list(cluster) == []


def test_every_pod_of_the_tests_was_made_for_a_job(cluster: FakeCluster) -> None:
    """The check after each test can fail."""
    defer(operator(workers=1))
    cluster.forget(JOBS)
    with pytest.raises(AssertionError):
        cluster.check_nothing_runs()
    cluster.forget(PODS)


def test_several_local_workers_are_one_process_of_the_task(cluster: FakeCluster, tmp_path: Path) -> None:
    """What fails in them fails the task, without a retry where none can help."""
    manifest = tmp_path / "1.json"
    manifest.write_text("{}")
    task = operator("local", workers=2)
    task.options = {"data": str(manifest), "model_dir": str(tmp_path / "model")}
    message = fails(task, retry=False)
    assert "training ended with status 3: error: worker" in message
    assert f"of 2 ended with status 3 ({manifest}: not a manifest" in message
    assert list(cluster) == []
