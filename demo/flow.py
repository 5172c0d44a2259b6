"""The job itself, through the services: refresh the packed dataset by REST, and see training follow by itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from demo.airflow_api import AirflowApi, TaskInstance
from demo.display import Display, Step
from demo.errors import DemoError
from demo.processes import Supervisor
from demo.waiting import wait_until

REFRESH, PRETRAIN = "refresh_packed_dataset", "pretrain_bert"
RUN_SECONDS = 900
EVENT_SECONDS = 60
LOG_TAIL = 30
DONE = ("success", "skipped")


def refresh_and_train(api: AirflowApi, supervisor: Supervisor, display: Display) -> str:
    """Trigger a refresh, follow it and the training that its asset event starts; returns the refresh's run id."""
    run_id = api.trigger(REFRESH, {})
    follow(api, supervisor, display, REFRESH, run_id)
    runs = wait_until(
        lambda: api.runs(PRETRAIN), f"the packed dataset's asset event to start {PRETRAIN}", supervisor, EVENT_SECONDS
    )
    follow(api, supervisor, display, PRETRAIN, runs[0])
    return run_id


def follow(api: AirflowApi, supervisor: Supervisor, display: Display, dag_id: str, run_id: str) -> None:
    """Show a run's tasks until it ends; raises DemoError with the tail of the log if a task failed."""
    steps: dict[str, Step] = {}

    def look() -> str | None:
        state = api.run_state(dag_id, run_id)
        show_tasks(display, steps, dag_id, api.task_instances(dag_id, run_id))
        return state if state in ("success", "failed") else None

    if wait_until(look, f"{dag_id} to end", supervisor, RUN_SECONDS) == "failed":
        raise DemoError(failure(api, dag_id, run_id))


def show_tasks(display: Display, steps: dict[str, Step], dag_id: str, instances: Sequence[TaskInstance]) -> None:
    """One step for each task that has begun; a mapped task's detail counts its instances."""
    tasks = defaultdict(list)
    for instance in instances:
        tasks[instance.task_id].append(instance.state)
    for task, states in tasks.items():
        if task not in steps and any(state in (*DONE, "running", "failed", "up_for_retry") for state in states):
            steps[task] = display.begin(f"{dag_id}: {task}")
        step = steps.get(task)
        if step is None or step.seconds is not None:
            continue
        detail = describe(states)
        if all(state in DONE for state in states):
            display.end(step, detail)
        elif "failed" in states:
            display.end(step, detail, failed=True)
        else:
            display.update(step, detail)


def describe(states: Sequence[str]) -> str:
    """`success`, or for several instances `3 success, 1 running`."""
    if len(states) == 1:
        return states[0]
    return ", ".join(f"{count} {state}" for state, count in sorted(Counter(states).items()))


def failure(api: AirflowApi, dag_id: str, run_id: str) -> str:
    """Which task failed, and the end of its log."""
    failed = [task for task in api.task_instances(dag_id, run_id) if task.state == "failed"]
    if not failed:
        return f"{dag_id}: run {run_id} failed, and no task of it did"
    task = failed[0]
    tail = "\n".join(api.log_lines(dag_id, run_id, task)[-LOG_TAIL:])
    return f"{dag_id}: task {task.task_id} failed in try {task.try_number}; its log ends:\n{tail}"
