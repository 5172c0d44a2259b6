"""The training task as Airflow runs it: operator, trigger and operator again, without Airflow's own processes."""

from __future__ import annotations

import asyncio
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.launchers.cluster import FakeCluster

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
