"""Following runs through Airflow's and MLflow's REST APIs, against a server with canned answers."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from demo.airflow_api import AirflowApi
from demo.display import Display
from demo.errors import DemoError
from demo.flow import describe, follow, refresh_and_train
from demo.mlflow_api import MlflowApi
from demo.processes import Supervisor


class Server(ThreadingHTTPServer):
    """Answers each path with the next of its canned answers, the last of them again and again; 404 otherwise."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Any]] = {"POST /auth/token": [{"access_token": "secret"}]}
        self.requests: list[tuple[str, Any, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = f"{self.command} {self.path.partition('?')[0]}"
        self.server.requests.append((key, json.loads(body or b"null"), self.headers.get("Authorization")))
        answers = self.server.answers.get(key)
        content = json.dumps((answers.pop(0) if len(answers) > 1 else answers[0]) if answers else {"detail": "no such"})
        self.send_response(200 if answers else 404)
        self.end_headers()
        self.wfile.write(content.encode())

    do_POST = do_GET  # noqa: N815 - named by http.server

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    return Supervisor(tmp_path)


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def display(shown: io.StringIO) -> Display:
    return Display(Console(file=shown, width=200))


def tasks(*states: str | None, task_id: str = "scan") -> dict[str, Any]:
    return {
        "task_instances": [
            {"task_id": task_id, "map_index": index, "state": state, "try_number": 1}
            for index, state in enumerate(states)
        ]
    }


def answer_run(server: Server, dag: str, run: str, states: list[str], instances: list[dict[str, Any]]) -> None:
    server.answers[f"GET /api/v2/dags/{dag}/dagRuns/{run}"] = [{"state": state} for state in states]
    server.answers[f"GET /api/v2/dags/{dag}/dagRuns/{run}/taskInstances"] = list(instances)


def test_a_refresh_is_triggered_and_the_training_that_follows_is_awaited(
    server: Server, supervisor: Supervisor, display: Display, shown: io.StringIO
) -> None:
    server.answers["POST /api/v2/dags/refresh_packed_dataset/dagRuns"] = [{"dag_run_id": "r1"}]
    answer_run(
        server,
        "refresh_packed_dataset",
        "r1",
        ["queued", "running", "success"],
        [tasks(None, None), tasks("running", None), tasks("success", "skipped")],
    )
    server.answers["GET /api/v2/dags/pretrain_bert/dagRuns"] = [{"dag_runs": []}, {"dag_runs": [{"dag_run_id": "p1"}]}]
    answer_run(server, "pretrain_bert", "p1", ["success"], [tasks("success", task_id="train")])
    assert refresh_and_train(AirflowApi(server.url, "admin", "pw"), supervisor, display) == "r1"
    (body,) = [body for key, body, _ in server.requests if key == "POST /api/v2/dags/refresh_packed_dataset/dagRuns"]
    assert body == {"logical_date": None, "conf": {}}
    logins = [body for key, body, _ in server.requests if key == "POST /auth/token"]
    assert logins == [{"username": "admin", "password": "pw"}]
    assert {token for key, _, token in server.requests if "/api/v2/dags" in key} == {"Bearer secret"}
    lines = shown.getvalue().splitlines()
    assert lines[0] == "refresh_packed_dataset: scan: started"
    assert lines[1] == "refresh_packed_dataset: scan: 1 running, 1 waiting"
    assert lines[2].startswith("refresh_packed_dataset: scan: 1 skipped, 1 success (")
    assert lines[-1].startswith("pretrain_bert: train: success (")


def test_a_failed_run_names_its_task_and_shows_the_end_of_its_log(
    server: Server, supervisor: Supervisor, display: Display, shown: io.StringIO
) -> None:
    answer_run(server, "d", "r", ["running", "failed"], [tasks("running", "running"), tasks("success", "failed")])
    events = [{"event": f"line {number}", "level": "info"} for number in range(100)]
    events.append(
        {"event": "Task failed", "level": "error", "error_detail": [{"exc_type": "InputError", "exc_value": "bad"}]}
    )
    server.answers["GET /api/v2/dags/d/dagRuns/r/taskInstances/scan/logs/1"] = [{"content": events}]
    with pytest.raises(DemoError, match=r"d: task scan failed in try 1") as caught:
        follow(AirflowApi(server.url, "admin", "pw"), supervisor, display, "d", "r")
    lines = str(caught.value).splitlines()
    assert lines[-2:] == ["error   Task failed", "        InputError: bad"]
    assert "info    line 99" in lines
    assert "info    line 0" not in lines
    assert "scan: 1 failed, 1 success (failed after" in shown.getvalue()


def test_airflow_is_healthy_when_all_components_are(server: Server) -> None:
    names = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    good = {name: {"status": "healthy"} for name in names}
    server.answers["GET /api/v2/monitor/health"] = [{**good, "dag_processor": {"status": None}}, good]
    api = AirflowApi(server.url, "admin", "pw")
    assert [api.healthy(), api.healthy()] == [False, True]
    assert not AirflowApi("http://127.0.0.1:9", "admin", "pw").healthy()


def test_a_dag_that_does_not_import_is_an_error(server: Server) -> None:
    api = AirflowApi(server.url, "admin", "pw")
    server.answers["GET /api/v2/importErrors"] = [{"import_errors": []}]
    server.answers["GET /api/v2/dags"] = [{"dags": []}, {"dags": [{"dag_id": "a"}, {"dag_id": "b"}]}]
    assert [api.has_dags(["a", "b"]), api.has_dags(["a", "b"])] == [False, True]
    server.answers["GET /api/v2/importErrors"] = [{"import_errors": [{"filename": "d.py", "stack_trace": "NameError"}]}]
    with pytest.raises(DemoError, match=r"d\.py.*\nNameError"):
        api.has_dags(["a"])


def test_refusals_carry_the_servers_reason(server: Server) -> None:
    with pytest.raises(DemoError, match=r"404.*no such"):
        AirflowApi(server.url, "admin", "pw").trigger("none", {})
    with pytest.raises(DemoError, match=r"404.*no such"):
        MlflowApi(server.url).find_run("e", "params.a = 'b'")
    with pytest.raises(DemoError, match="no answer"):
        MlflowApi("http://127.0.0.1:9").metric("run", "loss")


def test_runs_and_metrics_are_read_from_mlflow(server: Server) -> None:
    api, prefix = MlflowApi(server.url), "/api/2.0/mlflow"
    server.answers[f"GET {prefix}/experiments/get-by-name"] = [{"experiment": {"experiment_id": "7"}}]
    run = {"info": {"run_id": "r"}, "data": {"params": [{"key": "recipe_id", "value": "x"}]}}
    server.answers[f"POST {prefix}/runs/search"] = [{"runs": [run]}, {}]
    found = api.find_run("packing-recipes", "params.a = 'b'")
    assert (found.run_id, found.params) == ("r", {"recipe_id": "x"})
    with pytest.raises(DemoError, match="found none"):
        api.find_run("packing-recipes", "params.a = 'b'")
    values = [{"value": 2.0, "step": "10"}, {"value": 3.0, "step": "2"}]
    server.answers[f"GET {prefix}/metrics/get-history"] = [{"metrics": values}, {}]
    assert api.metric("r", "loss/mlm") == [3.0, 2.0]
    with pytest.raises(DemoError, match="found none"):
        api.metric("r", "loss/mlm")


def test_states_are_counted() -> None:
    assert describe(["success"]) == "success"
    assert describe(["success", "running", "success"]) == "1 running, 2 success"
