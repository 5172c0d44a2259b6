"""Which tasks the pools of `docker/pools.json` bound, by the DAGs as Compose and the chart set them up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.images import REPOSITORY
from tests.docker.stack import service

POOLS = """
import json, runpy, sys
dag = runpy.run_path(sys.argv[1])["refresh_packed_dataset"]()
print(json.dumps({task.task_id: task.pool for task in dag.tasks}))
"""
STORE = {"scan", "write", "audit"}


@pytest.mark.slow
def test_tasks_that_read_or_write_shards_are_in_the_store_s_pool(tmp_path: Path) -> None:
    settings = {name: value for name, value in service("worker")["environment"].items() if name.startswith("STOWAGE_")}
    own = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY / "plugins"), str(REPOSITORY)]), "AIRFLOW_HOME": str(tmp_path)}
    command = [sys.executable, "-c", POOLS, str(REPOSITORY / "dags" / "refresh_packed_dataset.py")]
    done = subprocess.run(command, env={**os.environ, **settings, **own}, check=True, capture_output=True, text=True)
    pools = json.loads(done.stdout.splitlines()[-1])
    assert {task for task, pool in pools.items() if pool == "store"} == STORE
    assert {pools[task] for task in pools.keys() - STORE} == {"default_pool"}
