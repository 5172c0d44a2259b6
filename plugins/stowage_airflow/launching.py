"""From a planned launch to a Job on the cluster, whatever an earlier try of the task has left there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from airflow.sdk.exceptions import AirflowException

from stowage_airflow.cluster import Cluster, is_owned
from stowage_airflow.launch import Launch, owned
from stowage_airflow.observe import condition, is_deleted
from training.launchers.kubernetes import Manifest

POLL_SECONDS = 1.0

_PATIENCE_SECONDS = 60
"""On top of the pods' grace, for Kubernetes to remove what was deleted."""

log = logging.getLogger(__name__)


async def start(cluster: Cluster, launch: Launch, stop_requested: Callable[[], bool]) -> None:
    """Make sure that the run's Job is there: the one that an earlier try has started, if it runs or has succeeded.

    A failed or deleted one is removed first. The Service belongs to the Job and goes with it. With `stop_requested` the
    Job is deleted, and AirflowException raised.
    """
    name = launch.config.name
    job = await cluster.job(name)
    if job and (is_deleted(job) or (condition(job) or {}).get("type") == "Failed"):
        log.info("job %s of an earlier try %s; removing it", name, "is deleted" if is_deleted(job) else "has failed")
        await cluster.delete_job(name)
        await _removed(lambda: cluster.job(name), f"job {name}", launch, stop_requested)
        job = None
    created = job is None
    if job:
        log.info("job %s of an earlier try %s; no other is started", name, "has ended" if condition(job) else "runs")
    else:
        _check(stop_requested)
        job = await cluster.create_job(launch.job)
        log.info("namespace %s: job %s is created", cluster.namespace, name)
    try:
        if launch.service and not condition(job):
            await _serve(cluster, launch, launch.service, job, stop_requested)
        _check(stop_requested)
    except AirflowException:
        if created or stop_requested():
            await cluster.delete_job(name)
        raise


async def _serve(
    cluster: Cluster, launch: Launch, service: Manifest, job: Manifest, stop_requested: Callable[[], bool]
) -> None:
    """Make the Service of `job`; one of a removed Job may not be gone yet."""
    name = launch.config.name
    while not await cluster.create_service(owned(service, job)):
        found = await cluster.service(name)
        if found and is_owned(found, job):
            return
        await cluster.delete_service(name)
        await _removed(lambda: cluster.service(name), f"service {name}", launch, stop_requested)


async def _removed(
    find: Callable[[], Awaitable[Manifest | None]], what: str, launch: Launch, stop_requested: Callable[[], bool]
) -> None:
    seconds = launch.config.grace_seconds + _PATIENCE_SECONDS
    deadline = time.monotonic() + seconds
    while await find():
        _check(stop_requested)
        if time.monotonic() > deadline:
            raise AirflowException(
                f"{what}: was deleted, and is still there after {seconds} s; delete pods on lost nodes by force"
            )
        await asyncio.sleep(POLL_SECONDS)


def _check(stop_requested: Callable[[], bool]) -> None:
    if stop_requested():
        raise AirflowException("the task was stopped while it launched; nothing is left on the cluster")
