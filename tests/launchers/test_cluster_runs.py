"""The training task on a cluster that works, or loses workers now and then."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.launchers.airflow_task import (
    CANARY,
    FIGURES,
    RUN,
    attempt,
    context,
    defer,
    end,
    fails,
    operator,
    progress,
    say,
    succeed,
    watch,
)
from tests.launchers.cluster import JOBS, PODS, SERVICES, FakeCluster
from tests.launchers.kubelet import container, started
from tests.launchers.test_local import is_running

pytestmark = pytest.mark.slow  # importing Airflow and the provider takes seconds


@pytest.mark.parametrize(
    ("launcher", "workers", "strategy"),
    [("kubernetes-gpu", 1, "mirrored"), ("kubernetes-gpu", 3, "multi-worker"), ("kubernetes-gaudi", 2, "hpu")],
)
def test_a_run_gives_its_figures_and_its_progress(
    cluster: FakeCluster, launcher: str, workers: int, strategy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    early: list[str] = []
    cluster.play = [
        RUN,
        say(0, "step 1", "step 2"),
        lambda _: early.extend(progress(capfd)),
        say(0, "step 2"),
        *succeed(workers)[1:],
    ]
    assert attempt(operator(launcher, workers)) == FIGURES

    assert early == ["step 1", "step 2"]
    assert progress(capfd) == ["step 2", "step 3  sequences 24"]
    command, environment = started(cluster.job(), 0)
    assert command[:5] == ["python", "-m", "training", "train", "--json"]
    assert command[-2:] == ["--strategy", strategy]
    assert container(cluster.job())["image"] == "registry.example.org/train:1"
    assert environment["AWS_ENDPOINT_URL"] == "https://s3.example.org"
    assert environment["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"
    labels = cluster.job()["metadata"]["labels"]
    assert (labels["dag_id"], labels["task_id"]) == ("pretrain_bert", "train")
    assert len(cluster.all(SERVICES)) == (workers > 1)


def test_a_run_whose_log_is_gone_is_done_all_the_same(cluster: FakeCluster, capfd: pytest.CaptureFixture[str]) -> None:
    """What an earlier chief has printed is no result."""
    cluster.play = [RUN, end(0, 42, '{"error": "stopped"}'), RUN, end(1), end(0)]
    assert attempt(operator()) == {}
    assert "no figures are in its log" in capfd.readouterr().out


def test_the_link_to_mlflow_is_there_while_the_task_works(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.execution_time import task_runner

    sent: list[Any] = []
    comms = SimpleNamespace(send=sent.append)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
    early: list[Any] = []
    cluster.play = [RUN, say(0, "MLflow run 4f2a", "step 1"), lambda _: early.extend(sent), *succeed()[1:]]
    assert attempt(operator()) == FIGURES
    found = {message.key: message.value for message in early if type(message).__name__ == "SetXCom"}
    assert found == {"mlflow_run_id": "4f2a", "_link_MlflowRunLink": "https://mlflow.example.org/#/runs/4f2a"}


@pytest.mark.usefixtures("cluster")
def test_the_messages_of_a_local_run_are_seen_while_it_works(tmp_path: Path) -> None:
    """It ends once the first has been seen."""
    from stowage_airflow.process import TaskProcess

    program = (
        "import sys, time; from pathlib import Path; seen = Path(sys.argv[1])\n"
        "print('MLflow run 4f2a', file=sys.stderr, flush=True)\n"
        "while not seen.exists(): time.sleep(0.01)\n"
        "print('{}'); print('bye', file=sys.stderr)"
    )
    lines: list[str] = []

    def watch(line: str) -> None:
        lines.append(line)
        (tmp_path / "seen").touch()

    process = TaskProcess([sys.executable, "-c", program, str(tmp_path / "seen")], os.environ)
    assert process.run(watch) == (0, "{}", "bye")
    assert lines == ["MLflow run 4f2a", "bye"]


@pytest.mark.usefixtures("cluster")
def test_nothing_is_left_of_a_local_run_whose_launcher_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a worker that does not listen to SIGTERM, and keeps the output open."""
    from stowage_airflow import process

    monkeypatch.setattr(process, "GRACE_SECONDS", 0.5)
    worker = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'w').write(str(os.getpid())); os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)"
    )
    launcher = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    run = process.TaskProcess([sys.executable, "-c", launcher, worker, str(tmp_path / "pid")], os.environ)
    status, _, _ = run.run(lambda _: None)
    assert status == -signal.SIGKILL
    killed = int((tmp_path / "pid").read_text())
    for _ in range(200):  # its output is closed a moment before it is gone
        if not is_running(killed):
            break
        time.sleep(0.05)
    assert not is_running(killed)


@pytest.mark.usefixtures("cluster")
def test_a_local_run_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    from stowage_airflow import process

    monkeypatch.setattr(process, "GRACE_SECONDS", 0.5)
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
        "print('up', file=sys.stderr, flush=True)\n"
        "while True: time.sleep(0.01)"
    )
    run = process.TaskProcess([sys.executable, "-c", program], os.environ)
    assert run.run(lambda _: run.stop()) == (-signal.SIGKILL, "asked", "up")


def test_other_lines_with_a_brace_are_no_result(cluster: FakeCluster) -> None:
    cluster.play = [RUN, end(1), end(0, 0, "{'a': 1}", json.dumps(FIGURES), "{0} is the first replica", "[1]")]
    assert attempt(operator()) == FIGURES


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


def test_a_service_that_an_earlier_job_has_left_is_replaced(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stowage_airflow import launching

    monkeypatch.setattr(launching, "POLL_SECONDS", 0.01)
    defer(operator())
    cluster.forget(JOBS)  # and Kubernetes has not yet removed what was its own
    cluster.forget(PODS)
    cluster.play = succeed()
    assert attempt(operator()) == FIGURES
    (service,) = cluster.all(SERVICES)
    assert [owner["uid"] for owner in service["metadata"]["ownerReferences"]] == [cluster.job()["metadata"]["uid"]]


def test_pods_that_an_earlier_job_has_left_are_not_of_the_run(
    cluster: FakeCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    defer(operator())
    cluster.run()
    cluster.say(0, "step 99")
    cluster.forget(JOBS)
    cluster.forget(SERVICES)
    cluster.play = [lambda _: None, *succeed()]
    assert attempt(operator()) == FIGURES
    assert progress(capfd) == ["step 3  sequences 24"]


def test_a_stopped_worker_starts_again_and_is_followed(cluster: FakeCluster, capfd: pytest.CaptureFixture[str]) -> None:
    stopped = [say(0, "step 1"), end(0, 42, "step 2", '{"error": "stopped"}'), end(1, 42)]
    cluster.play = [RUN, *stopped, RUN, lambda c: c.evict(1), RUN, lambda c: c.lose(0), RUN, *succeed()[1:]]
    assert attempt(operator(launch_options="--restarts 0")) == FIGURES
    assert progress(capfd) == ["step 1", "step 2", "step 3  sequences 24"]


def test_a_chief_that_is_evicted_is_replaced_and_followed(
    cluster: FakeCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """Though it left no log, for which the API server calls the request a bad one."""
    cluster.play = [RUN, say(0, "step 1"), lambda c: c.evict(0), RUN, *succeed()[1:]]
    assert attempt(operator()) == FIGURES
    assert progress(capfd) == ["step 1", "step 3  sequences 24"]


def test_another_container_in_the_pods_is_not_taken_for_the_worker(
    cluster: FakeCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.play = [RUN, lambda c: c.inject(0), say(0, "step 1"), end(1), lambda c: (c.end(0, 3), c.inject(0))]
    assert "worker 0 ended with status 3: step 1" in fails(operator(), retry=False)
    assert progress(capfd) == ["step 1"]


def test_a_log_may_hold_any_bytes(cluster: FakeCluster, capfd: pytest.CaptureFixture[str]) -> None:
    cluster.play = [RUN, say(0, "step \udcff", "step é\u2028x"), *succeed()[1:]]
    assert attempt(operator()) == FIGURES
    assert progress(capfd) == ["step \ufffd", "step é\u2028x", "step 3  sequences 24"]


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


def test_a_killed_trigger_does_not_leave_its_job_for_a_short_absence(cluster: FakeCluster) -> None:
    trigger = defer(operator())
    cluster.refusals["delete", "jobs"] = [(503, "busy"), (500, "etcdserver: leader changed"), (0, "")]
    asyncio.run(trigger.on_kill())
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


def test_every_pod_of_the_tests_was_made_for_a_job(cluster: FakeCluster) -> None:
    """The check after each test can fail."""
    defer(operator(workers=1))
    cluster.forget(JOBS)
    with pytest.raises(AssertionError):
        cluster.check_nothing_runs()
    cluster.forget(PODS)
