"""Refreshes on Celery while workers or the scheduler are lost: what is packed is what is packed undisturbed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from demo.processes import Child
from demo.waiting import wait_until
from packing.manifest import read_manifest
from packing.parallel import serial
from packing.ports import Storage
from packing.types import PackedShard
from packing.verify import require, verify_dataset
from tests.celery.cluster import (
    DAG,
    QUEUED,
    RUNNING,
    SUCCESS,
    WORKERS,
    Attempt,
    Cluster,
    freeze,
    send_signal,
    thaw,
)
from tests.celery.conftest import OPTIONS, SHARDS, SOURCE, TASKS
from tests.docker.images import IMAGES

pytestmark = pytest.mark.exhaustive

MOMENT_SECONDS = 300


@dataclass(frozen=True)
class Refreshed:
    """A packed dataset, with URIs below its destination, and how long its run took."""

    recipe_id: str
    shards: tuple[PackedShard, ...]
    seconds: float


@pytest.fixture(autouse=True)
def enough_workers(cluster: Cluster) -> None:
    cluster.replace_workers()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, storage: Storage) -> Refreshed:
    destination = "s3://packed/celery/undisturbed"
    run = refresh(cluster, destination)
    refreshed = finish(cluster, storage, run, destination)
    assert len(refreshed.shards) > 2 * TASKS
    assert sum(shard.sequences for shard in refreshed.shards) > SHARDS
    writes = cluster.api.attempts(run, "write")
    assert len(writes) == TASKS
    assert {attempt.number for attempt in writes} == {1}
    return refreshed


def refresh(cluster: Cluster, destination: str) -> str:
    return cluster.api.trigger(DAG, {**OPTIONS, "destination": destination})


def finish(cluster: Cluster, storage: Storage, run: str, destination: str) -> Refreshed:
    """Wait for the end of a run; its dataset is complete, matches the raw shards, and nothing lies beside it."""
    assert cluster.follow(run) == SUCCESS
    uri = cluster.api.result(run, "commit")["manifest"]
    require(verify_dataset(storage, serial(storage), uri, SOURCE))
    manifest = read_manifest(storage, uri)
    assert {info.uri for info in storage.list(f"{destination}/shards")} == {shard.uri for shard in manifest.shards}
    shards = tuple(replace(shard, uri=shard.uri.removeprefix(destination)) for shard in manifest.shards)
    return Refreshed(manifest.recipe_id, shards, cluster.api.seconds(run))


def assert_same_dataset(refreshed: Refreshed, undisturbed: Refreshed) -> None:
    assert refreshed.recipe_id == undisturbed.recipe_id
    assert refreshed.shards == undisturbed.shards


def test_the_image_s_health_check_tells_whether_a_worker_is_there(cluster: Cluster) -> None:
    def is_well(name: str) -> bool:
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {**cluster.environment, "PATH": programs, "HOSTNAME": name}
        command = IMAGES["worker"].health_check
        return subprocess.run(command, env=own, check=False, capture_output=True, timeout=120).returncode == 0

    names = [worker.name for worker in cluster.workers]
    assert len(names) == WORKERS
    assert [is_well(name) for name in (*names, "none")] == [True] * WORKERS + [False]


def test_a_worker_lost_while_it_writes_costs_one_more_try_and_no_byte(
    cluster: Cluster, storage: Storage, undisturbed: Refreshed, capsys: pytest.CaptureFixture[str]
) -> None:
    destination = "s3://packed/celery/lost-worker"
    run = refresh(cluster, destination)

    def freeze_writer() -> tuple[Child, Attempt] | None:
        """A worker, frozen when its task had written some of its partitions and not others."""
        writes = cluster.api.attempts(run, "write")
        if not any(attempt.state == SUCCESS for attempt in writes):
            return None
        for attempt in (attempt for attempt in writes if attempt.state == RUNNING):
            for worker in cluster.workers:
                if attempt.pid in freeze(worker) and partly_written(cluster, storage, run, attempt, destination):
                    return worker, attempt
                thaw(worker)
        return None

    worker, lost = wait_until(freeze_writer, "a write to be under way", cluster.supervisor, MOMENT_SECONDS)
    cluster.lose(worker)
    killed = datetime.now(timezone.utc)
    refreshed = finish(cluster, storage, run, destination)
    assert_same_dataset(refreshed, undisturbed)

    tries = {attempt.index: attempt for attempt in cluster.api.attempts(run, "write")}
    assert {index: attempt.number for index, attempt in tries.items() if attempt.number > 1} == {lost.index: 2}
    retried = tries[lost.index].started
    assert retried is not None
    with capsys.disabled():
        sys.stdout.write(
            f"\na lost Celery worker: retry started after {(retried - killed).total_seconds():.1f} s; the run took "
            f"{refreshed.seconds:.1f} s, undisturbed {undisturbed.seconds:.1f} s\n"
        )


def partly_written(cluster: Cluster, storage: Storage, run: str, attempt: Attempt, destination: str) -> bool:
    wanted = set(cluster.api.result(run, "solve")[attempt.index]["partitions"])
    stored = {info.uri.split("/")[-2] for info in storage.list(f"{destination}/shards")}
    return 0 < len(wanted & stored) < len(wanted)


def test_a_task_that_a_lost_worker_had_not_started_goes_to_another(
    cluster: Cluster, storage: Storage, undisturbed: Refreshed, capsys: pytest.CaptureFixture[str]
) -> None:
    destination = "s3://packed/celery/lost-message"
    for worker in cluster.workers:
        freeze(worker, but_itself=True)
    run = refresh(cluster, destination)

    def held_message() -> Attempt | None:
        """The first task, once a worker has its message, which the worker's frozen processes cannot start."""
        messages = cluster.unacknowledged()
        attempts = cluster.api.attempts(run, "list_shards")
        return next((a for a in attempts if any(a.id in message for message in messages)), None)

    held = wait_until(held_message, "a worker to take a message", cluster.supervisor, MOMENT_SECONDS)
    for worker in cluster.workers:
        cluster.lose(worker)
    killed = datetime.now(timezone.utc)
    assert held.state == QUEUED
    cluster.start_worker()
    assert_same_dataset(finish(cluster, storage, run, destination), undisturbed)

    (started,) = cluster.api.attempts(run, "list_shards")
    assert (started.id, started.number) == (held.id, 1)
    assert started.started is not None
    delay = (started.started - killed).total_seconds()
    with capsys.disabled():
        sys.stdout.write(f"\na lost Celery worker's message: task started after {delay:.1f} s\n")


def test_a_task_that_takes_longer_than_messages_stay_hidden_runs_once(
    cluster: Cluster, storage: Storage, undisturbed: Refreshed
) -> None:
    destination = "s3://packed/celery/long-task"
    run = refresh(cluster, destination)

    def stop_writer() -> Attempt | None:
        """A write whose own process is frozen, while its supervisor goes on telling Airflow that it is alive."""
        for attempt in (attempt for attempt in cluster.api.attempts(run, "write") if attempt.state == RUNNING):
            assert attempt.pid is not None
            send_signal(attempt.pid, signal.SIGSTOP)
            if partly_written(cluster, storage, run, attempt, destination):
                return attempt
            send_signal(attempt.pid, signal.SIGCONT)
        return None

    stopped = wait_until(stop_writer, "a write to be under way", cluster.supervisor, MOMENT_SECONDS)

    def refused() -> bool:
        """Whether a worker got the message of that very try again, and Airflow did not let it start."""
        logs = "\n".join(worker.log.read_text() for worker in cluster.workers)
        messages = re.findall(rf"\[(\S+)\] Executing workload in Celery: .*{stopped.id}", logs)
        return any(f"[{message}] Task already running elsewhere" in logs for message in messages)

    wait_until(refused, "a second delivery to be refused", cluster.supervisor, MOMENT_SECONDS)
    assert stopped.pid is not None
    send_signal(stopped.pid, signal.SIGCONT)
    assert_same_dataset(finish(cluster, storage, run, destination), undisturbed)
    assert {attempt.number for attempt in cluster.api.attempts(run, "write")} == {1}


def test_a_lost_scheduler_and_a_second_run_change_nothing(
    cluster: Cluster, storage: Storage, undisturbed: Refreshed
) -> None:
    destination = "s3://packed/celery/lost-scheduler"
    first, second = refresh(cluster, destination), refresh(cluster, destination)

    def amid_writes() -> bool:
        states = {attempt.state for attempt in cluster.api.attempts(first, "write")}
        return {SUCCESS, RUNNING} <= states

    wait_until(amid_writes, "writes to be under way", cluster.supervisor, MOMENT_SECONDS)
    cluster.lose(cluster.components["scheduler"])
    assert cluster.api.run_state(DAG, second) == QUEUED
    cluster.start_component("scheduler")
    assert_same_dataset(finish(cluster, storage, first, destination), undisturbed)
    assert_same_dataset(finish(cluster, storage, second, destination), undisturbed)
    assert [attempt.state for attempt in cluster.api.attempts(second, "write")] == ["skipped"]
