"""The training task on a cluster that fails or refuses: what it says, and whether it is tried again."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.launchers.airflow_task import FIGURES, RUN, attempt, defer, end, fails, operator, progress, say, succeed
from tests.launchers.cluster import EVENTS, JOBS, NAMESPACE, FakeCluster, connection

pytestmark = pytest.mark.slow  # importing Airflow and the provider takes seconds


@pytest.mark.parametrize("status", [2, 3, 4])
def test_a_failure_that_stays_is_not_retried(cluster: FakeCluster, status: int) -> None:
    cluster.play = [
        RUN,
        end(0, 42, "error: another worker is gone"),
        RUN,
        end(1, status, "error: no good", '{"error": "x"}'),
    ]
    message = fails(operator(), retry=False)
    assert f"worker 1 ended with status {status}: error: no good" in message


@pytest.mark.parametrize("stopped", [[], [end(0, 42, "error: stopped")]])
def test_a_run_that_takes_too_long_is_not_retried(cluster: FakeCluster, stopped: list[Any]) -> None:
    """Whether or not a worker has failed before."""
    words = "Job was active longer than specified deadline"
    cluster.play = [RUN, *stopped, lambda c: c.fail("DeadlineExceeded", words)]
    assert f"DeadlineExceeded: {words}" in fails(operator(), retry=False)


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


@pytest.fixture
def after(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Any]:
    """A step in which nothing happens for some seconds; no other time passes."""
    from stowage_airflow import triggers

    assert not cluster.play
    now = [0.0]
    monkeypatch.setattr(triggers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return lambda seconds: lambda _: now.__setitem__(0, now[0] + seconds)


def waiting(**state: str) -> dict[str, Any]:
    about = {"name": "training", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    return {**about, "state": {"waiting": state}}


NO_IMAGE = {
    "containerStatuses": [waiting(reason="ImagePullBackOff", message='Back-off pulling image "train:1"')],
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


def test_the_right_to_see_events_can_be_missed(cluster: FakeCluster) -> None:
    cluster.quota = "exceeded quota"
    cluster.refusals["list", "events"] = [(403, "events is forbidden")]
    assert "no reason is known" in fails(operator(), retry=True, start_timeout=0.05)


def test_what_is_over_is_no_reason(cluster: FakeCluster, after: Callable[[float], Any]) -> None:
    """A node has come for the workers, and they load a large image."""
    creating = {"containerStatuses": [waiting(reason="ContainerCreating")]}
    cluster.play = [
        lambda c: (c.complain(0, **creating), c.complain(1, **creating)),
        lambda c: [c.tell(index, "Warning", "FailedScheduling", "0/3 nodes are available") for index in (0, 1)],
        lambda c: [c.tell(index, "Normal", "Pulling", 'Pulling image "train:1"') for index in (0, 1)],
        after(601),
    ]
    message = fails(operator(), retry=True)
    assert 'Pulling: Pulling image "train:1"' in message
    assert "FailedScheduling" not in message


def test_a_secret_that_is_missing_is_named(cluster: FakeCluster, after: Callable[[float], Any]) -> None:
    creating = {"containerStatuses": [waiting(reason="ContainerCreating")]}
    cluster.play = [
        lambda c: (c.run(), c.complain(1, phase="Pending", **creating)),
        lambda c: c.tell(1, "Normal", "Scheduled", "assigned to a node"),
        lambda c: c.tell(1, "Warning", "FailedMount", 'secret "s3" not found'),
        after(601),
    ]
    assert 'FailedMount: secret "s3" not found' in fails(operator(), retry=False)


def test_a_node_that_is_lost_while_training_is_tried_again(cluster: FakeCluster, after: Callable[[float], Any]) -> None:
    """Whatever was said of its pod before."""
    cluster.play = [
        lambda c: c.tell(1, "Warning", "Unhealthy", "Startup probe failed: connection refused"),
        RUN,
        lambda c: c.strand(1),
        after(601),
    ]
    message = fails(operator(), retry=True)
    assert "1 of 2 workers do not run" in message
    assert "Unhealthy" not in message


def test_a_run_that_has_begun_is_tried_again_if_its_worker_finds_no_other_node(
    cluster: FakeCluster, after: Callable[[float], Any]
) -> None:
    cluster.play = [RUN, lambda c: c.evict(1), lambda c: c.complain(1, **UNSCHEDULABLE), after(601)]
    assert "Insufficient nvidia.com/gpu" in fails(operator(), retry=True)


@pytest.mark.parametrize("seconds_away", [500, 700])
def test_a_worker_that_is_replaced_has_the_same_time_to_start(
    cluster: FakeCluster, after: Callable[[float], Any], seconds_away: float
) -> None:
    """Which begins when it is gone, after whatever time of training."""
    back = [after(seconds_away), *succeed()]
    cluster.play = [RUN, after(400), after(400), lambda c: c.evict(1), *back]
    if seconds_away < 600:
        assert attempt(operator(), start_timeout=600) == FIGURES
    else:
        assert "1 of 2 workers do not run after 600 s" in fails(operator(), retry=True, start_timeout=600)


@pytest.mark.usefixtures("cluster")
def test_workers_that_are_silent_are_tried_again() -> None:
    assert "no reason is known" in fails(operator(), retry=True, start_timeout=0.05)


@pytest.mark.parametrize(
    ("request_of", "status", "retry"),
    [
        (("create", "jobs"), 403, False),
        (("create", "jobs"), 422, False),
        (("create", "services"), 403, False),
        (("create", "jobs"), 409, True),
        (("create", "jobs"), 429, True),
        (("create", "jobs"), 503, True),
        (("create", "services"), 500, True),
        (("fetch", "jobs"), 401, False),
        (("list", "pods"), 403, False),
    ],
)
def test_refusals_are_passed_on_in_one_line(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, request_of: tuple[str, str], status: int, *, retry: bool
) -> None:
    from stowage_airflow import triggers

    monkeypatch.setattr(triggers, "REFUSED_SECONDS", 0)
    words = 'jobs.batch is forbidden: User "me" cannot do this:\n exceeded quota'
    cluster.refusals[request_of] = [(status, words)]
    message = fails(operator(), retry=retry)
    assert 'is forbidden: User "me" cannot do this: exceeded quota' in message
    assert f"status {status}" in message
    assert f"namespace {NAMESPACE}" in message
    cluster.settle()
    assert cluster.all(JOBS) == []


def test_a_refusal_that_passes_is_waited_out(cluster: FakeCluster, capfd: pytest.CaptureFixture[str]) -> None:
    """As of an API server that has not yet read who may do what."""
    cluster.play = succeed()
    cluster.refusals["list", "pods"] = [(0, ""), (403, "RBAC: not yet read"), (401, "Unauthorized"), (0, "")]
    assert attempt(operator()) == FIGURES
    assert capfd.readouterr().out.count("asking again") == 2


def test_a_refusal_that_stays_ends_the_run(cluster: FakeCluster, after: Callable[[float], Any]) -> None:
    cluster.play = [RUN, after(61)]
    cluster.refusals["fetch", "pods"] = [(403, "pods/log is forbidden")]
    message = fails(operator(), retry=False)
    assert "pods/log is forbidden (status 403)" in message
    assert "is deleted" in message


def test_a_job_that_ends_slowly_is_not_taken_for_one_that_does_not_start(
    cluster: FakeCluster, after: Callable[[float], Any]
) -> None:
    """Its pods have their grace, which may be longer than their time to start."""
    cluster.play = [
        RUN,
        lambda c: (c.say(0, "error: bad data"), c.end_slowly(0, 3)),
        after(601),
        lambda c: c.fail("PodFailurePolicy", "Container failed"),
    ]
    assert "worker 0 ended with status 3: error: bad data" in fails(operator(), retry=False)


def test_a_page_of_a_proxy_is_cut_to_a_line(cluster: FakeCluster) -> None:
    cluster.refusals["create", "jobs"] = [(502, "<html>\n  <b>Bad Gateway</b>" + "\n<!-- padding -->" * 1000)]
    message = fails(operator(), retry=True)
    assert "<html> <b>Bad Gateway</b> <!--" in message
    assert len(message) < 1200


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
        ("kubernetes-gpu", {"launch_options": "--workers=2"}, "--workers is the task's to say"),
        ("kubernetes-gpu", {"launch_options": "--name same"}, "--name is the task's to say"),
        ("kubernetes-gpu", {"launch_options": "--launcher kubernetes-gaudi"}, "--launcher is the task's to say"),
        ("kubernetes-gpu", {"launch_options": "--ttl-seconds-after-finished 599"}, "expected at least 600"),
        ("kubernetes-gpu", {"workers": "two"}, "workers: expected an integer from 1, got 'two'"),
        ("local", {"workers": "-2"}, "workers: expected an integer from 1, got '-2'"),
    ],
)
def test_what_cannot_work_is_not_sent(cluster: FakeCluster, launcher: str, launch: dict[str, Any], words: str) -> None:
    assert words in fails(operator(launcher, **launch), retry=False)
    assert list(cluster) == []


def test_a_short_absence_of_the_api_server_is_waited_out(
    cluster: FakeCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.play = succeed()
    answers = [(500, "etcdserver: leader changed"), (503, "busy"), (200, "<html>log in</html>")]
    cluster.refusals["list", "pods"] = [(0, ""), *answers, (0, "")]
    assert attempt(operator()) == FIGURES
    assert capfd.readouterr().out.count("asking again") == 3


def test_a_long_absence_of_the_api_server_is_left_to_a_retry(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stowage_airflow import triggers

    seconds = itertools.count(step=50)
    monkeypatch.setattr(triggers, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    cluster.refusals["list", "pods"] = [(503, "busy")]
    message = fails(operator(), retry=True)
    assert "busy (status 503); the job may still run" in message
    assert "deletionTimestamp" not in cluster.job()["metadata"]
    cluster.delete_by_hand()


def test_an_api_server_that_is_not_there_is_named(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection("http://127.0.0.1:1", "token")))
    message = fails(operator(), retry=True)
    assert f"namespace {NAMESPACE}, job " in message
    assert "the API server is unreachable (ClientConnectorError: Cannot connect to host 127.0.0.1:1" in message
    assert cluster.created == []


def test_a_log_that_is_out_of_reach_for_a_while_is_caught_up(
    cluster: FakeCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also the last one, which has the figures."""
    cluster.play = [RUN, say(0, "step 1"), *succeed()[1:]]
    cluster.refusals["fetch", "pods"] = [(0, ""), *[(502, "no node")] * 4, (0, "")]
    assert attempt(operator()) == FIGURES
    assert progress(capfd) == ["step 1", "step 3  sequences 24"]


def test_a_job_that_cannot_be_removed_is_named(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from stowage_airflow import triggers

    monkeypatch.setattr(triggers, "REFUSED_SECONDS", 0)
    cluster.refusals["list", "pods"] = cluster.refusals["delete", "jobs"] = [(403, "forbidden")]
    message = fails(operator(), retry=False)
    assert f"job {cluster.job()['metadata']['name']} may still run" in message
    cluster.delete_by_hand()


def test_a_job_that_does_not_go_is_named(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that has a pod on a lost node."""
    from stowage_airflow import launching

    monkeypatch.setattr(launching, "POLL_SECONDS", 0)
    seconds = itertools.count(step=100)
    monkeypatch.setattr(launching, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    cluster.deletion_polls = 10**9
    asyncio.run(defer(operator()).on_kill())
    assert "was deleted, and is still there after 360 s" in fails(operator(), retry=True)
    assert len(cluster.created) == 2


def test_missing_connections_are_named(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT")
    assert "connection kubernetes_default" in fails(operator(), retry=False)
    assert list(cluster) == []


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
