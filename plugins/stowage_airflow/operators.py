"""Training outside the task's own process: importing TensorFlow there costs 9 CPU-seconds and 700 MB."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from stowage_airflow.connections import kubernetes_namespace, public_environment, task_errors, training_environment
from stowage_airflow.launch import LOCAL, TaskKey, as_arguments, check_launcher, plan_launch, strategy, workers_of
from stowage_airflow.links import MlflowRunLink, announced_run, link_run
from stowage_airflow.process import TaskProcess
from training.launchers.kubernetes import NO_RETRY_STATUSES

if TYPE_CHECKING:
    from airflow.sdk import Context

    from stowage_airflow.launch import Launch


class LaunchTrainingOperator(BaseOperator):
    """Run a `command` of `python -m training` with `options` where `launcher` says; returns the figures that it prints.

    `launcher` is "local" (processes of this machine) or one of `python -m training render`, whose options `launch` has
    by name. A run that is stopped saves a checkpoint and ends with status 42, from which a retry resumes. Statuses 2, 3
    and 4 fail without retries, as do refusals of the cluster that stay. While a cluster computes, the task is deferred.
    """

    template_fields: Sequence[str] = ("launcher", "options", "launch")
    operator_extra_links = (MlflowRunLink(),)

    def __init__(
        self,
        *,
        command: str,
        options: Mapping[str, Any],
        launcher: str = LOCAL,
        launch: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.options = dict(options)
        self.launcher = launcher
        self.launch = dict(launch or {})
        self._process: TaskProcess | None = None
        self._stopped = False

    def execute(self, context: Context) -> dict[str, Any]:
        """The figures of a local run; a task that launches elsewhere is deferred to TrainingTrigger."""
        with task_errors():
            check_launcher(self.launcher)
        if self.launcher == LOCAL:
            return self._run_here(context)
        return self._run_elsewhere(context)

    def _run_here(self, context: Context) -> dict[str, Any]:
        with task_errors():
            workers = workers_of(self.launch)
            environment = {**os.environ, **training_environment(), "PYTHONUNBUFFERED": "1"}
        module = ["training"] if workers == 1 else ["training.launchers.local", "--workers", str(workers), "--"]
        command = [sys.executable, "-m", *module, *self._arguments(workers)]
        self.log.info("starting %s", " ".join(command[1:]))
        self._process = TaskProcess(command, environment)
        status, result, message = self._process.run(partial(_link, _key(context)))
        if status in NO_RETRY_STATUSES:
            raise AirflowFailException(f"training ended with status {status}: {message}")
        if status:
            raise AirflowException(f"training ended with status {status}: {message}")
        return _parse(result)

    def _run_elsewhere(self, context: Context) -> NoReturn:
        from stowage_airflow.triggers import TrainingTrigger

        key = _key(context)
        with task_errors():
            fields = {**self.launch, "namespace": self.launch.get("namespace") or kubernetes_namespace()}
            launch = plan_launch(
                self.launcher,
                fields,
                ["python", "-m", "training", *self._arguments(workers_of(fields))],
                key=key,
                environment=public_environment(),
            )
        asyncio.run(self._start(launch))
        config = launch.config
        trigger = TrainingTrigger(
            namespace=config.namespace,
            name=config.name,
            workers=config.workers,
            start_timeout=config.start_timeout,
            launched_by=asdict(key),
        )
        self.defer(trigger=trigger, method_name=self.finish.__name__)

    async def _start(self, launch: Launch) -> None:
        from stowage_airflow.cluster import open_cluster
        from stowage_airflow.launching import start

        async with open_cluster(launch.config.namespace) as cluster:
            await start(cluster, launch, lambda: self._stopped)

    def finish(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - as Airflow calls it
        """The figures of a run that TrainingTrigger has seen end."""
        from stowage_airflow.triggers import DONE, FAILED

        if event["outcome"] == DONE:
            return dict(event["figures"])
        raise (AirflowFailException if event["outcome"] == FAILED else AirflowException)(event["message"])

    def _arguments(self, workers: int) -> list[str]:
        given = {**self.options}
        if chosen := strategy(self.launcher, workers):
            given["strategy"] = chosen
        return [self.command, "--json", *as_arguments(given)]

    def on_kill(self) -> None:
        """Stop the process, or what is being launched; a deferred task's Job is deleted by its trigger."""
        self._stopped = True
        if self._process is not None:
            self._process.stop()


def _key(context: Context) -> TaskKey:
    task = context["ti"]
    return TaskKey(task.dag_id, task.task_id, task.run_id, -1 if task.map_index is None else task.map_index)


def _link(task: TaskKey, line: str) -> None:
    if run_id := announced_run(line):
        link_run(task, run_id)


def _parse(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError as exc:
        raise AirflowException(f"training ended with status 0, expected one JSON object, found {line!r}") from exc
