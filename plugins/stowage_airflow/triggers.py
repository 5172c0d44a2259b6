"""Watches a launched run while its task is deferred: passes on its log, and tells how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from stowage_airflow.cluster import Cluster, open_cluster
from stowage_airflow.launch import TaskKey
from stowage_airflow.links import announced_run, link_run
from stowage_airflow.observe import (
    Tail,
    chiefs,
    complaints,
    condition,
    is_deleted,
    is_ending,
    is_warning,
    last_words,
    latest,
    one_line,
    result,
    said,
    starting,
    workers_down,
    worst_failure,
)
from training.launchers.kubernetes import NO_RETRY_STATUSES, Manifest

DONE, RETRY, FAILED = "done", "retry", "failed"

REFUSED_SECONDS = 60
"""How long a refusal has to last: API servers that start refuse what they allow once they have read who may do what."""
_UNREACHABLE_SECONDS = 600
_AWAY_SECONDS = 2.0
_FIRST_LINES = 1000
_OVERLAP_SECONDS = 10


class TrainingTrigger(BaseTrigger):
    """Fires one event: `outcome` (DONE, RETRY or FAILED), `message`, and the `figures` that the run has printed.

    All workers have to run within `start_timeout` seconds, at the start and whenever some of them were replaced.
    `launched_by` are the fields of the TaskKey.
    """

    def __init__(
        self,
        *,
        namespace: str,
        name: str,
        workers: int,
        start_timeout: float,
        launched_by: Mapping[str, Any],
        poll_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        self.namespace, self.name, self.workers = namespace, name, workers
        self.start_timeout, self.poll_seconds = start_timeout, poll_seconds
        self.launched_by = dict(launched_by)
        self._tails: dict[str, Tail] = {}
        self._result: dict[str, Any] = {}
        self._read_at = 0.0
        self._complete_at = time.monotonic()
        self._has_run = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How a triggerer makes it again; there is no secret in it."""
        names = ("namespace", "name", "workers", "start_timeout", "launched_by", "poll_seconds")
        return f"{type(self).__module__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the Job has ended; a short absence of the API server is only remarked upon."""
        reached_at = self._complete_at = time.monotonic()
        event = None
        while event is None:
            try:
                async with open_cluster(self.namespace) as cluster:
                    event = await self._poll(cluster)
                reached_at = time.monotonic()
            except AirflowException as exc:
                event = await self._give_up(exc, time.monotonic() - reached_at)
            if event is None:
                await asyncio.sleep(self.poll_seconds)
        yield event

    async def on_kill(self) -> None:
        """Delete the Job when the deferred task is cleared or marked as ended by a user.

        Airflow gives it 30 s, and does not ask again, so it does not leave a Job for a short absence of the API server.
        """
        self.log.info("the task was stopped: deleting job %s", self.name)
        deleted = False
        while not deleted:
            try:
                async with open_cluster(self.namespace) as cluster:
                    await cluster.delete_job(self.name)
                deleted = True
            except AirflowFailException:
                raise
            except AirflowException as exc:
                self.log.warning("%s; asking again", exc)
                await asyncio.sleep(min(self.poll_seconds, _AWAY_SECONDS))

    async def _give_up(self, exc: AirflowException, seconds: float) -> TriggerEvent | None:
        """The end, if the API server has not answered, or refused to, for too long."""
        if isinstance(exc, AirflowFailException) and seconds > REFUSED_SECONDS:
            return _event(FAILED, f"{exc}; {await self._abandon()}")
        if seconds > _UNREACHABLE_SECONDS:
            return _event(RETRY, f"{exc}; the job may still run, and a retry looks for it")
        self.log.warning("%s; asking again", exc)
        return None

    async def _abandon(self) -> str:
        """Delete a Job that cannot be followed, as its task fails; says what became of it."""
        try:
            async with open_cluster(self.namespace) as cluster:
                await cluster.delete_job(self.name)
        except AirflowException as exc:
            self.log.warning("%s", exc)
            return f"job {self.name} may still run"
        return f"job {self.name} is deleted"

    async def _poll(self, cluster: Cluster) -> TriggerEvent | None:
        job = await cluster.job(self.name)
        if job is None or is_deleted(job):
            return _event(RETRY, f"job {self.name} was deleted; a retry starts another, which resumes")
        pods = await cluster.pods(job)
        ended = condition(job)
        try:
            await self._log_progress(cluster, pods)
        except AirflowFailException:
            raise
        except AirflowException as exc:
            # A node that is lost takes its log along, and its pods are to be missed all the same.
            if ended:
                raise
            self.log.warning("%s; asking again", exc)
        if ended:
            if ended["type"] == "Complete":
                return _event(DONE, "", self._figures())
            return await self._failed(cluster, ended, pods)
        down = [] if is_ending(job) else workers_down(pods, self.workers)
        if not down:
            self._complete_at, self._has_run = time.monotonic(), True
        elif time.monotonic() - self._complete_at > self.start_timeout:
            return await self._not_started(cluster, job, pods, down)
        return None

    async def _log_progress(self, cluster: Cluster, pods: Iterable[Manifest]) -> None:
        """Log what the chief has printed since the last time."""
        now = time.monotonic()
        for pod in chiefs(pods):
            name = pod["metadata"]["name"]
            if tail := self._tails.get(name):
                limits = {"since_seconds": int(now - self._read_at) + _OVERLAP_SECONDS}
            else:
                tail = self._tails[name] = Tail()
                # A triggerer that takes over does not repeat days of progress.
                limits = {"tail_lines": _FIRST_LINES}
                self._result = {}
            for line in tail.add(await cluster.log(name, **limits)):
                self.log.info("%s", line)
                if run_id := announced_run(line):
                    await asyncio.to_thread(link_run, TaskKey(**self.launched_by), run_id)
                # Both streams of a container are one log, so the result need not be its last line.
                self._result = result(line) or self._result
        self._read_at = now

    def _figures(self) -> dict[str, Any]:
        """What the run has printed as its result; its work is done and kept, even if its log is not."""
        if not self._result:
            self.log.warning("job %s is done, but no figures are in its log; MLflow has them", self.name)
        return self._result

    async def _failed(self, cluster: Cluster, ended: Any, pods: list[Manifest]) -> TriggerEvent:
        why = one_line(f"{ended.get('reason', '')}: {ended.get('message', '')}")
        found = worst_failure(pods)
        if found is None:
            return _event(FAILED if ended.get("reason") == "DeadlineExceeded" else RETRY, f"job {self.name}: {why}")
        pod, failure = found
        printed = Tail().add(await cluster.log(pod["metadata"]["name"], tail_lines=_FIRST_LINES))
        final = failure.status in NO_RETRY_STATUSES or ended.get("reason") == "DeadlineExceeded"
        message = f"job {self.name}: {failure}: {last_words(printed)} ({why})"
        return _event(FAILED if final else RETRY, message)

    async def _not_started(
        self, cluster: Cluster, job: Manifest, pods: list[Manifest], down: list[int]
    ) -> TriggerEvent:
        """Delete the Job; without retry if the API server has said why the run has never begun."""
        waiting = starting(pods, down)
        events = latest(await self._events(cluster, [job, *waiting]))
        why = complaints(waiting) or said(filter(is_warning, events))
        await cluster.delete_job(self.name)
        message = f"job {self.name}: {len(down)} of {self.workers} workers do not run after {self.start_timeout:g} s"
        reason = why or said(events) or "no reason is known"
        final = why and not self._has_run
        return _event(FAILED if final else RETRY, f"{message}: {reason}; the job is deleted")

    async def _events(self, cluster: Cluster, objects: Iterable[Manifest]) -> list[Manifest]:
        """None if they are not to be seen: a right that only explanations need."""
        try:
            return await cluster.events({found["metadata"]["uid"] for found in objects})
        except AirflowFailException as exc:
            self.log.warning("%s", exc)
            return []


def _event(outcome: str, message: str, figures: dict[str, Any] | None = None) -> TriggerEvent:
    return TriggerEvent({"outcome": outcome, "message": message, "figures": figures or {}})
