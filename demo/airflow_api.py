"""The part of Airflow's REST API that the demo uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import requests

from demo.errors import DemoError

REQUEST_SECONDS = 30


@dataclass(frozen=True)
class TaskInstance:
    """One task of a run as Airflow reports it; `map_index` is -1 unless the task is mapped."""

    task_id: str
    map_index: int
    state: str
    try_number: int


class AirflowApi:
    """Calls to one API server; each raises DemoError with the server's reason."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._login = {"username": user, "password": password}
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy has no business with 127.0.0.1

    def healthy(self) -> bool:
        """Whether all components say so; False while the server does not answer yet."""
        try:
            components = self._session.get(f"{self._url}/api/v2/monitor/health", timeout=REQUEST_SECONDS).json()
        except (requests.ConnectionError, requests.Timeout, ValueError):
            return False
        wanted = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all(components.get(name, {}).get("status") == "healthy" for name in wanted)

    def has_dags(self, dag_ids: Iterable[str]) -> bool:
        """Whether these DAGs are loaded; raises DemoError if any DAG file fails to import."""
        errors = self._call("GET", "importErrors")["import_errors"]
        if errors:
            raise DemoError(f"{errors[0]['filename']}: Airflow cannot import it:\n{errors[0]['stack_trace']}")
        return {dag["dag_id"] for dag in self._call("GET", "dags")["dags"]} >= set(dag_ids)

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run now; returns its id."""
        run = self._call("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def runs(self, dag_id: str) -> list[str]:
        """The ids of the DAG's runs, oldest first."""
        runs = self._call("GET", f"dags/{dag_id}/dagRuns?order_by=run_after&limit=100")["dag_runs"]
        return [str(run["dag_run_id"]) for run in runs]

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Queued, running, success or failed."""
        return str(self._call("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """All task instances of a run that exist by now (mapped ones appear when their input is known)."""
        found = self._call("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=1000")["task_instances"]
        return [
            TaskInstance(entry["task_id"], entry["map_index"], entry["state"] or "waiting", entry["try_number"])
            for entry in found
        ]

    def log_lines(self, dag_id: str, run_id: str, task: TaskInstance) -> list[str]:
        """The log of the last try, one line an event, exceptions included."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs/{task.try_number}"
        content = self._call("GET", f"{path}?map_index={task.map_index}&full_content=true")["content"]
        return [line for event in content for line in _event_lines(event)]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"{self._url}/api/v2/{path}"
        try:
            if "Authorization" not in self._session.headers:
                self._authenticate()
            answer = self._session.request(method, url, json=body, timeout=REQUEST_SECONDS)
        except requests.RequestException as exc:
            raise DemoError(f"{method} {url}: no answer from Airflow ({exc})") from exc
        if not answer.ok:
            raise DemoError(f"{method} {url}: Airflow answered {answer.status_code}: {answer.text[:2000]}")
        return answer.json()

    def _authenticate(self) -> None:
        answer = self._session.post(f"{self._url}/auth/token", json=self._login, timeout=REQUEST_SECONDS)
        if not answer.ok:
            raise DemoError(f"{self._url}/auth/token: Airflow answered {answer.status_code}: {answer.text[:2000]}")
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def _event_lines(event: Any) -> list[str]:
    if isinstance(event, str):
        return event.splitlines()
    lines = [f"{event.get('level') or '':7} {event['event']}"]
    lines += [f"        {error['exc_type']}: {error['exc_value']}" for error in event.get("error_detail") or ()]
    return lines
