"""Airflow on Celery, with the settings that are shipped, and workers that can be lost like machines."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from redis import Redis

from demo.airflow import COMPONENTS, Airflow, airflow_command, airflow_environment, set_password, wait_for_airflow
from demo.airflow_api import AirflowApi
from demo.processes import Child, Supervisor, descendants, free_port
from demo.stack import REPOSITORY
from demo.waiting import wait_until

SETTINGS = REPOSITORY / "docker" / "celery.env"
DAG = "refresh_packed_dataset"
START_SECONDS = 120
RUN_SECONDS = 600
WORKERS = 2
RUNNING, SUCCESS, QUEUED = "running", "success", "queued"


def shipped_settings() -> dict[str, str]:
    """What `docker/celery.env` sets."""
    lines = SETTINGS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@dataclass(frozen=True)
class Attempt:
    """The last try of a task instance; `id` names the try in messages, `pid` its process on whatever worker."""

    id: str
    index: int
    number: int
    state: str
    pid: int | None
    started: datetime | None


class CeleryApi(AirflowApi):
    """What a test asks beyond what the demo does; everything is about runs of the one DAG."""

    def attempts(self, run: str, task: str) -> list[Attempt]:
        """The instances of a task that exist by now."""
        found = self._call("GET", f"dags/{DAG}/dagRuns/{run}/taskInstances?limit=1000")["task_instances"]
        return [
            Attempt(
                entry["id"],
                entry["map_index"],
                entry["try_number"],
                entry["state"] or "waiting",
                entry["pid"],
                _time(entry["start_date"]),
            )
            for entry in found
            if entry["task_id"] == task
        ]

    def result(self, run: str, task: str) -> Any:
        """What a task returned."""
        path = f"dags/{DAG}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return self._call("GET", path)["value"]

    def seconds(self, run: str) -> float:
        """How long a finished run took."""
        return float(self._call("GET", f"dags/{DAG}/dagRuns/{run}")["duration"])


@dataclass
class Cluster:
    """A running Airflow and its `workers`; what is lost can be replaced."""

    supervisor: Supervisor
    environment: Mapping[str, str]
    api: CeleryApi
    components: dict[str, Child] = field(default_factory=dict)
    workers: list[Child] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def start_component(self, name: str) -> None:
        command = airflow_command(name, *COMPONENTS.get(name, ()))
        self.components[name] = self.supervisor.start(f"airflow {name}", command, self.environment)

    def replace_workers(self) -> None:
        """Start as many workers as are missing."""
        while len(self.workers) < WORKERS:
            self.start_worker()

    def start_worker(self) -> None:
        """Start a worker under a name of its own that runs one task at a time, and wait until it is ready."""
        name = f"worker-{next(self.numbers)}"
        flags = ("--celery-hostname", name, "--concurrency", "1", "--skip-serve-logs")
        worker = self.supervisor.start(name, airflow_command("celery", "worker", *flags), self.environment)
        ready = f"{name} ready"
        wait_until(lambda: ready in worker.log.read_text(), f"{name} to be ready", self.supervisor, START_SECONDS)
        self.workers.append(worker)

    def lose(self, child: Child) -> None:
        """Kill a component or a worker and all below it, as if their machine were gone."""
        self.supervisor.forget(child)
        for pid in freeze(child):
            send_signal(pid, signal.SIGKILL)
        child.process.wait()
        self.workers = [worker for worker in self.workers if worker is not child]

    def unacknowledged(self) -> list[str]:
        """The messages that workers took and whose tasks have not ended, as far as Redis knows."""
        entries = Redis.from_url(self.environment["AIRFLOW__CELERY__BROKER_URL"]).hvals("unacked")
        return [base64.b64decode(json.loads(entry)[0]["body"]).decode() for entry in entries]

    def follow(self, run: str) -> str:
        """Wait for a run's end; returns its state."""

        def ended() -> bool:
            return self.api.run_state(DAG, run) not in (QUEUED, RUNNING)

        wait_until(ended, f"{run} to end", self.supervisor, RUN_SECONDS)
        return self.api.run_state(DAG, run)


def start_cluster(supervisor: Supervisor, home: Path, base: Mapping[str, str], database: str, broker: str) -> Cluster:
    """Airflow's components and workers, on a migrated database, with the DAGs loaded."""
    home.mkdir()
    environment = {
        **base,
        **airflow_environment(home, REPOSITORY, free_port()),
        **shipped_settings(),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        # Airflow would turn the URL into one for asyncpg; psycopg serves both.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": database,
        "AIRFLOW__CELERY__BROKER_URL": broker,
    }
    supervisor.start_job("airflow db migrate", airflow_command("db", "migrate"), environment).wait()
    url, user, password = environment["AIRFLOW__API__BASE_URL"], "admin", set_password(home)
    cluster = Cluster(supervisor, environment, CeleryApi(url, user, password))
    for component in ("api-server", *COMPONENTS):
        cluster.start_component(component)
    wait_for_airflow(supervisor, Airflow(url, user, password, cluster.api))
    cluster.replace_workers()
    return cluster


def freeze(child: Child, *, but_itself: bool = False) -> set[int]:
    """Stop a process and all below it, so that none can start another or report anything; returns their ids."""
    itself = set() if but_itself else {child.process.pid}
    frozen: set[int] = set()
    while new := {*itself, *descendants(child.process.pid)} - frozen:
        for pid in new:
            send_signal(pid, signal.SIGSTOP)
        frozen |= new
    return frozen


def thaw(child: Child) -> None:
    """Let a frozen process and all below it go on."""
    for pid in (*descendants(child.process.pid), child.process.pid):
        send_signal(pid, signal.SIGCONT)


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signal a process, which may have ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
