"""What a lost worker costs, by the settings and the DAGs that are shipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.stack import REPOSITORY
from tests.celery.cluster import shipped_settings

RETRIES = """
import json, runpy, sys
from pathlib import Path
for file in map(Path, sys.argv[1:]):
    for task in runpy.run_path(str(file))[file.stem]().tasks:
        # Airflow's backoff waits up to twice as long as it is told.
        longest = task.retry_delay.total_seconds() * (2 if task.retry_exponential_backoff else 1)
        print(json.dumps([f"{file.stem}.{task.task_id}", task.retries, longest]))
"""
LEFT_FOR_THE_START = 15
"""Of the minute that a lost worker may cost: for the process that runs the task again."""


def seconds(name: str) -> int:
    return int(shipped_settings()[f"AIRFLOW__{name}"])


@pytest.mark.slow
def test_every_task_is_tried_again_within_a_minute(tmp_path: Path) -> None:
    timeout = seconds("SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT")
    noticed = timeout + seconds("SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL")
    assert timeout >= 3 * seconds("WORKERS__MIN_HEARTBEAT_INTERVAL")
    dags = sorted((REPOSITORY / "dags").glob("*.py"))
    path = os.pathsep.join([str(REPOSITORY / "plugins"), str(REPOSITORY)])
    own = {**os.environ, "PYTHONPATH": path, "AIRFLOW_HOME": str(tmp_path)}
    command = [sys.executable, "-c", RETRIES, *map(str, dags)]
    done = subprocess.run(command, env=own, check=True, capture_output=True, text=True)
    tasks = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert {name.partition(".")[0] for name, *_ in tasks} == {dag.stem for dag in dags}
    for name, retries, longest in tasks:
        assert retries > 1, name
        assert noticed + longest <= 60 - LEFT_FOR_THE_START, name


def test_a_message_of_a_lost_worker_reaches_another_within_a_minute() -> None:
    visibility, interval, throttle = (
        seconds(f"CELERY_BROKER_TRANSPORT_OPTIONS__{name}")
        for name in ("VISIBILITY_TIMEOUT", "UNACKED_RESTORE_INTERVAL", "UNACKED_RESTORE_THROTTLE")
    )
    assert shipped_settings()["AIRFLOW__CELERY__TASK_ACKS_LATE"] == "True"
    assert visibility + interval * throttle <= 60 - LEFT_FOR_THE_START
