"""MLflow beyond the contract: its limits, its experiments, and servers that fail."""

from __future__ import annotations

import http.server
import math
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from demo.servers import MlflowServer
from packing.adapters import NullTracker, open_tracker
from packing.errors import TrackingError
from packing.ports import Metric, Tracker


@pytest.fixture
def client(mlflow_server: MlflowServer) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=mlflow_server.url)


@pytest.fixture
def tracker(mlflow_server: MlflowServer) -> Tracker:
    return open_tracker(mlflow_server.url)


@pytest.fixture
def experiment() -> str:
    return f"experiment {uuid.uuid4()}"


@pytest.mark.slow
def test_more_tags_than_a_request_takes_are_all_set(tracker: Tracker, client: Any, experiment: str) -> None:
    tags = {f"tag{number}": "x" * number for number in range(500)}
    run = tracker.start_run(experiment, "run", params={}, tags=dict(list(tags.items())[:250]))
    run.set_tags(dict(list(tags.items())[250:]))
    assert tags.items() <= client.get_run(run.run_id).data.tags.items()


@pytest.mark.slow
def test_nothing_is_sent_later_whatever_the_users_settings(
    tracker: Tracker, client: Any, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's asynchronous logging loses what it has not sent when the server or the process goes away."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    run = tracker.start_run(experiment, "run", params={"a": "1"}, tags={})
    run.set_tags({"b": "2"})
    run.log_metrics([Metric("c", 3.0, 0, 1)])
    data = client.get_run(run.run_id).data
    assert (data.params, data.tags["b"], data.metrics) == ({"a": "1"}, "2", {"c": 3.0})


@pytest.mark.slow
def test_metrics_that_are_sent_again_are_recorded_once(tracker: Tracker, client: Any, experiment: str) -> None:
    run = tracker.start_run(experiment, "run", params={}, tags={})
    metrics = [
        Metric(key, value, step, step) for step in range(3) for key, value in (("same", 1 / 3), ("diverged", math.nan))
    ]
    run.log_metrics(metrics[:4])
    run.log_metrics(metrics)
    run.log_metrics(metrics[2:])
    for key in ("same", "diverged"):
        assert [metric.step for metric in client.get_metric_history(run.run_id, key)] == [0, 1, 2]


@pytest.mark.slow
def test_runs_that_start_at_once_share_the_experiment_that_they_make(
    tracker: Tracker, client: Any, experiment: str
) -> None:
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda name: tracker.start_run(experiment, name, params={}, tags={}), "abcdef"))
    experiments = {client.get_run(run.run_id).info.experiment_id for run in runs}
    assert experiments == {client.get_experiment_by_name(experiment).experiment_id}


@pytest.mark.slow
def test_a_deleted_experiment_is_restored(tracker: Tracker, client: Any, experiment: str) -> None:
    first = tracker.start_run(experiment, "run", params={}, tags={})
    client.delete_experiment(client.get_run(first.run_id).info.experiment_id)
    tracker.start_run(experiment, "run", params={}, tags={})
    assert client.get_experiment_by_name(experiment).lifecycle_stage == "active"


@pytest.mark.slow
def test_what_the_server_would_cut_is_refused_and_the_limit_itself_is_not(
    tracker: Tracker, client: Any, experiment: str
) -> None:
    longest = {"params": {"p": "x" * 6000}, "tags": {"t": "x" * 8000}}
    run = tracker.start_run(experiment, "run", **longest)
    data = client.get_run(run.run_id).data
    assert (data.params["p"], data.tags["t"]) == ("x" * 6000, "x" * 8000)
    with pytest.raises(TrackingError, match="tag t: expected at most 8000 characters, got 8001"):
        run.set_tags({"t": "x" * 8001})
    with pytest.raises(TrackingError, match="param p: expected at most 6000 characters, got 6001"):
        tracker.start_run(experiment, "run", params={"p": "x" * 6001}, tags={})
    with pytest.raises(TrackingError, match="tag t: expected at most 8000 characters, got 8001"):
        tracker.start_run(experiment, "run", params={}, tags={"t": "x" * 8001})


@pytest.mark.slow
@pytest.mark.usefixtures("aws_environment")
def test_a_store_that_refuses_artifacts_directly_is_a_tracking_error(
    tracker: Tracker, client: Any, experiment: str
) -> None:
    """As with a server that lets its clients write to the store themselves."""
    client.create_experiment(experiment, artifact_location="s3://nowhere/artifacts")
    run = tracker.start_run(experiment, "run", params={}, tags={})
    with pytest.raises(TrackingError, match="NoSuchBucket"):
        run.log_artifacts({"a.txt": b"x"})


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"error_code": "PERMISSION_DENIED", "message": "because"}'
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_a_servers_reason_reaches_the_user(refusing: str) -> None:
    from packing.adapters.mlflow_tracker import MlflowRun, MlflowTracker

    tracker = MlflowTracker(refusing)
    run = MlflowRun(tracker._client, refusing, "1234")
    calls = (
        lambda: tracker.start_run("e", "run", params={}, tags={}),
        lambda: tracker.open_run("1234"),
        lambda: run.log_metrics([Metric("a", 1.0, 0, 1)]),
        lambda: run.set_tags({"a": "b"}),
        lambda: run.log_artifacts({"a.txt": b"x"}),
        run.finish,
    )
    for call in calls:
        with pytest.raises(TrackingError, match=f"^{refusing}: .*because"):
            call()


def test_without_a_server_runs_are_not_recorded() -> None:
    for uri in (None, ""):
        tracker = open_tracker(uri)
        assert isinstance(tracker, NullTracker)
        run = tracker.start_run("e", "run", params={}, tags={})
        run.log_metrics([Metric("a", 1.0, 0, 1)])
        run.set_tags({"a": "b"})
        run.log_artifacts({"a": b""})
        run.finish()
        assert tracker.open_run(run.run_id).run_id == ""
