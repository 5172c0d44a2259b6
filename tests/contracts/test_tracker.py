"""What every `Tracker` promises, held against the fake and MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from packing.adapters import open_tracker
from packing.errors import RunNotFoundError, TrackingError
from packing.ports import MemoryTracker, Metric, Tracker

METRICS = [Metric("loss", 1.0 / (step + 1), step, 1_700_000_000_000 + step) for step in range(2500)]


@dataclass(frozen=True)
class Recorded:
    params: dict[str, str]
    tags: dict[str, str]
    losses: list[tuple[int, float]]
    artifacts: dict[str, bytes]
    status: str


@pytest.fixture(params=["memory", pytest.param("mlflow", marks=pytest.mark.slow)])
def tracked(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tracker, Callable[[str], Recorded]]:
    """A tracker, and a way to look at what it recorded that does not go through it."""
    if request.param == "memory":
        tracker = MemoryTracker()
        return tracker, lambda run_id: _from_memory(tracker, run_id)
    url = request.getfixturevalue("mlflow_server").url
    return open_tracker(url), lambda run_id: _from_mlflow(url, run_id, tmp_path)


def _from_memory(tracker: MemoryTracker, run_id: str) -> Recorded:
    run = tracker.runs[run_id]
    losses = [(metric.step, metric.value) for metric in run.metrics if metric.key == "loss"]
    return Recorded(run.params, run.tags, losses, run.artifacts, run.status)


def _from_mlflow(url: str, run_id: str, folder: Path) -> Recorded:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=url)
    run: Any = client.get_run(run_id)
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss")]
    downloaded = Path(client.download_artifacts(run_id, "", str(folder)))
    files = {str(path.relative_to(downloaded)): path.read_bytes() for path in downloaded.rglob("*") if path.is_file()}
    return Recorded(run.data.params, run.data.tags, losses, files, run.info.status)


def test_all_that_is_logged_is_recorded(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, look = tracked
    params = {f"param{number}": "x" * number for number in range(150)}
    run = tracker.start_run("contracts", "a run", params=params, tags={"kind": "test"})
    run.log_metrics(METRICS)
    run.log_artifacts({"recipe/recipe.json": b"{}", "note.md": b"# note"})
    run.finish()
    recorded = look(run.run_id)
    assert recorded.params == params
    assert recorded.tags["kind"] == "test"
    assert recorded.losses == [(metric.step, metric.value) for metric in METRICS]
    assert recorded.artifacts == {"recipe/recipe.json": b"{}", "note.md": b"# note"}
    assert recorded.status == "FINISHED"


def test_a_run_can_be_opened_again_to_add_to(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, look = tracked
    run = tracker.start_run("contracts", "a run", params={}, tags={})
    run.finish("FAILED")
    tracker.open_run(run.run_id).set_tags({"manifest": "s3://packed/m.json"})
    recorded = look(run.run_id)
    assert recorded.tags["manifest"] == "s3://packed/m.json"
    assert recorded.status == "FAILED"


def test_runs_of_one_experiment_are_apart(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, _ = tracked
    ids = {tracker.start_run("contracts", "same name", params={}, tags={}).run_id for _ in range(3)}
    assert len(ids) == 3


def test_an_unknown_run_is_an_error(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, _ = tracked
    for name in ("0" * 32, "odd"):
        with pytest.raises(RunNotFoundError, match=name):
            tracker.open_run(name)


def test_runs_are_found_by_params_and_tags_newest_first(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, _ = tracked
    started = []
    for number in range(7):
        params = {"recipe_id": f"it's {number % 2}", "destination": 's3://a "b"/c'}
        run = tracker.start_run("finding", f"run {number}", params=params, tags={"stowage.kind": str(number % 3)})
        run.log_metrics([Metric("packs", 1.0, 0, 1), Metric("packs", 2.5 + number, 1, 2)])
        run.finish()
        started.append(run.run_id)
        time.sleep(0.002)  # MLflow's times are milliseconds
    found = tracker.find_runs("finding", params={"recipe_id": "it's 0", "destination": 's3://a "b"/c'})
    assert [run.run_id for run in found.runs] == [started[6], started[4], started[2], started[0]]
    assert found.next_page == ""
    newest = found.runs[0]
    assert (newest.name, newest.status, newest.metrics["packs"]) == ("run 6", "FINISHED", 8.5)
    assert (newest.params["recipe_id"], newest.tags["stowage.kind"]) == ("it's 0", "0")
    assert newest.started > 1_600_000_000_000
    tagged = tracker.find_runs("finding", params={"recipe_id": "it's 0"}, tags={"stowage.kind": "1"})
    assert [run.run_id for run in tagged.runs] == [started[4]]
    assert tracker.find_runs("finding", params={"recipe_id": "another"}).runs == ()
    assert tracker.find_runs("no such experiment").runs == ()


def test_runs_are_found_page_by_page(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, _ = tracked
    started = {tracker.start_run("paging", "run", params={}, tags={}).run_id for _ in range(5)}
    pages = [tracker.find_runs("paging", limit=2)]
    while pages[-1].next_page:
        pages.append(tracker.find_runs("paging", limit=2, page=pages[-1].next_page))
    assert [len(page.runs) for page in pages] == [2, 2, 1]
    assert {run.run_id for page in pages for run in page.runs} == started


def test_artifacts_can_be_read(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, _ = tracked
    run = tracker.start_run("contracts", "a run", params={}, tags={})
    run.log_artifacts({"recipe/recipe.json": b"\x00\xff", "note.md": b"# note"})
    assert tracker.read_artifact(run.run_id, "recipe/recipe.json") == b"\x00\xff"
    assert tracker.read_artifact(run.run_id, "note.md") == b"# note"
    for run_id, path in ((run.run_id, "recipe/other.json"), (run.run_id, "recipe"), ("0" * 32, "note.md")):
        with pytest.raises(RunNotFoundError, match=run_id):
            tracker.read_artifact(run_id, path)


@pytest.mark.slow
def test_a_deleted_run_is_not_found(mlflow_server: Any) -> None:
    from mlflow.tracking import MlflowClient

    tracker = open_tracker(mlflow_server.url)
    run = tracker.start_run("contracts", "a run", params={}, tags={})
    MlflowClient(tracking_uri=mlflow_server.url).delete_run(run.run_id)
    with pytest.raises(RunNotFoundError, match=f"{run.run_id} is deleted"):
        tracker.open_run(run.run_id)


@pytest.mark.slow
def test_odd_values_do_not_break_a_batch(mlflow_server: Any) -> None:
    run = open_tracker(mlflow_server.url).start_run("contracts", "odd", params={}, tags={})
    run.log_metrics([Metric("loss", value, 0, 1) for value in (math.nan, math.inf, -math.inf, 1e300)])
    run.log_metrics([])


@pytest.mark.slow
def test_a_server_that_is_away_is_an_error_that_names_it() -> None:
    from demo.processes import free_port

    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match=url):
        open_tracker(url).start_run("contracts", "a run", params={}, tags={})
    run = open_tracker(url).open_run("0" * 32)
    with pytest.raises(TrackingError, match=url):
        run.set_tags({"a": "b"})


@pytest.mark.slow
def test_a_param_that_the_server_would_cut_is_refused(mlflow_server: Any) -> None:
    with pytest.raises(TrackingError, match="param long: expected at most"):
        open_tracker(mlflow_server.url).start_run("contracts", "a run", params={"long": "x" * 7000}, tags={})
