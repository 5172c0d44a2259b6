"""The part of MLflow's REST API that the demo reads; its own client takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests

from demo.errors import DemoError

REQUEST_SECONDS = 30


@dataclass(frozen=True)
class TrackedRun:
    """One run: its id and its immutable params."""

    run_id: str
    params: dict[str, str]


class MlflowApi:
    """Calls to one tracking server; each raises DemoError with the server's reason."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/2.0/mlflow"
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy has no business with 127.0.0.1

    def find_run(self, experiment: str, condition: str) -> TrackedRun:
        """The newest run of an experiment that meets a condition such as `params.recipe_id = '...'`."""
        found = self._get("experiments/get-by-name", {"experiment_name": experiment})
        number = found["experiment"]["experiment_id"]
        query = {"experiment_ids": [number], "filter": condition, "order_by": ["attributes.start_time DESC"]}
        runs = self._post("runs/search", query).get("runs", [])
        if not runs:
            raise DemoError(f"MLflow: expected a run in experiment {experiment} with {condition}, found none")
        params = {param["key"]: param["value"] for param in runs[0]["data"].get("params", [])}
        return TrackedRun(runs[0]["info"]["run_id"], params)

    def metric(self, run_id: str, key: str) -> list[float]:
        """All values of a metric in the order of their steps, one at least."""
        query = {"run_id": run_id, "metric_key": key, "max_results": 1000}
        entries = self._get("metrics/get-history", query).get("metrics", [])
        if not entries:
            raise DemoError(f"MLflow: expected metric {key} in run {run_id}, found none")
        return [float(entry["value"]) for entry in sorted(entries, key=lambda entry: int(entry.get("step", 0)))]

    def _get(self, path: str, query: dict[str, Any]) -> Any:
        return self._call("GET", path, query=query)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body=body)

    def _call(
        self, method: str, path: str, *, query: dict[str, Any] | None = None, body: dict[str, Any] | None = None
    ) -> Any:
        url = f"{self._url}/{path}"
        try:
            answer = self._session.request(method, url, params=query, json=body, timeout=REQUEST_SECONDS)
        except requests.RequestException as exc:
            raise DemoError(f"{method} {url}: no answer from MLflow ({exc})") from exc
        if not answer.ok:
            raise DemoError(f"{method} {url}: MLflow answered {answer.status_code}: {answer.text[:2000]}")
        return answer.json()
