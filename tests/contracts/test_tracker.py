"""What every `Tracker` promises, held against the fake and MLflow."""

from __future__ import annotations

import io
import json
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packing.adapters import open_tracker
from packing.errors import RunNotFoundError, TrackingError, UsageError
from packing.in_memory import MemoryTracker
from packing.ports import InputDataset, Metric, Table, Tracker

METRICS = [Metric("loss", 1.0 / (step + 1), step, 1_700_000_000_000 + step) for step in range(2500)]


@dataclass(frozen=True)
class Recorded:
    params: dict[str, str]
    tags: dict[str, str]
    losses: list[tuple[int, float]]
    artifacts: dict[str, bytes]
    status: str
    inputs: list[InputDataset]


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
    return Recorded(run.params, run.tags, losses, run.artifacts, run.status, run.inputs)


def _from_mlflow(url: str, run_id: str, folder: Path) -> Recorded:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=url)
    run: Any = client.get_run(run_id)
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss")]
    downloaded = Path(client.download_artifacts(run_id, "", str(folder)))
    files = {str(path.relative_to(downloaded)): path.read_bytes() for path in downloaded.rglob("*") if path.is_file()}
    inputs = [
        InputDataset(
            entry.dataset.name,
            entry.dataset.digest,
            json.loads(entry.dataset.source)["uri"],
            {tag.key: tag.value for tag in entry.tags}["mlflow.data.context"],
            json.loads(entry.dataset.schema or "{}"),
            json.loads(entry.dataset.profile or "{}"),
        )
        for entry in run.inputs.dataset_inputs
    ]
    return Recorded(run.data.params, run.data.tags, losses, files, run.info.status, inputs)


def _registered(tracker: Tracker, name: str) -> tuple[str, dict[str, tuple[str, dict[str, str]]]]:
    """The current version of a registered name, and run and tags by version, not through the tracker."""
    if isinstance(tracker, MemoryTracker):
        return tracker.registered[name].current, tracker.registered[name].versions
    client = tracker._client  # type: ignore[attr-defined]
    versions = client.search_model_versions(f"name = '{name}'")
    current = str(client.get_model_version_by_alias(name, "current").version)
    return current, {str(version.version): (version.run_id, version.tags) for version in versions}


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
    with pytest.raises(UsageError, match="'no token': expected the token of an earlier answer"):
        tracker.find_runs("paging", limit=2, page="no token")


def test_artifacts_can_be_read(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, _ = tracked
    run = tracker.start_run("contracts", "a run", params={}, tags={})
    run.log_artifacts({"recipe/recipe.json": b"\x00\xff", "note.md": b"# note"})
    assert tracker.read_artifact(run.run_id, "recipe/recipe.json") == b"\x00\xff"
    assert tracker.read_artifact(run.run_id, "note.md") == b"# note"
    for run_id, path in ((run.run_id, "recipe/other.json"), (run.run_id, "recipe"), ("0" * 32, "note.md")):
        with pytest.raises(RunNotFoundError, match=run_id):
            tracker.read_artifact(run_id, path)


def test_tables_are_files_that_pandas_reads(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    pandas = pytest.importorskip("pandas")
    tracker, look = tracked
    run = tracker.start_run("contracts", "a run", params={}, tags={})
    first = Table(("lengths", "packs", "share", "new"), (("1 2", 3, 0.5, True), ('"<é', 2**40, 1e-9, False)))
    empty = Table(("a",), ())
    run.log_tables({"recipe/tables/first.json": first})
    run.log_tables({"recipe/tables/empty.json": empty, "recipe/tables/first.json": first})
    run.finish()
    files = look(run.run_id).artifacts
    assert sorted(files) == ["recipe/tables/empty.json", "recipe/tables/first.json"]
    for name, table in (("first", first), ("empty", empty)):
        frame = pandas.read_json(io.BytesIO(files[f"recipe/tables/{name}.json"]), orient="split")
        assert tuple(frame.columns) == table.columns
        assert [tuple(row) for row in frame.to_numpy().tolist()] == list(table.rows)


def test_inputs_are_recorded_once_for_each_dataset(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, look = tracked
    raw = InputDataset("s3://raw/a", "1" * 36, "s3://raw/a", "raw", {}, {"sequences": 3})
    packed = InputDataset("/out", "2" * 32, "/out/manifests/2.json", "packed", {"columns": [{"name": "input_ids"}]})
    run = tracker.start_run("contracts", "a run", params={}, tags={})
    run.log_inputs([raw])
    run.finish()
    tracker.open_run(run.run_id).log_inputs([raw, packed])
    assert sorted(look(run.run_id).inputs, key=lambda dataset: dataset.digest) == [raw, packed]
    other = tracker.start_run("contracts", "another", params={}, tags={})
    other.log_inputs([packed])
    assert look(other.run_id).inputs == [packed]


def test_runs_are_found_by_their_inputs(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, _ = tracked
    digests = [uuid.uuid4().hex for _ in range(3)]
    started = []
    for own in ([], [0], [1, 0], [2], [0, 2]):
        run = tracker.start_run("inputs", "a run", params={"kind": str(len(own))}, tags={})
        run.log_inputs(InputDataset("/out", digests[number], "/out/m.json", "training") for number in own)
        started.append(run.run_id)
        time.sleep(0.002)  # MLflow's times are milliseconds

    def find(numbers: list[int], **wanted: Any) -> list[int]:
        found = tracker.find_runs("inputs", inputs=[digests[number] for number in numbers], **wanted)
        return [started.index(run.run_id) for run in found.runs]

    assert find([0]) == [4, 2, 1]
    assert find([1, 2]) == [4, 3, 2]
    assert find([0], params={"kind": "2"}) == [4, 2]
    assert find([0, 1, 2], limit=2) == [4, 3]
    assert tracker.find_runs("inputs", inputs=["0" * 32]).runs == ()


def test_one_version_of_a_registered_name_is_current(tracked: tuple[Tracker, Callable[[str], Recorded]]) -> None:
    tracker, _ = tracked
    name = f"recipes-{uuid.uuid4()}"
    runs = [tracker.start_run("contracts", "a run", params={}, tags={}).run_id for _ in range(3)]

    def register(number: int) -> str:
        tags = {"recipe_id": str(number), "manifest": f"s3://packed/{number}.json"}
        return tracker.set_current(name, runs[number], tags=tags, description="Recipes of s3://packed")

    assert tracker.find_current(name) == {}
    assert [register(number) for number in (0, 0, 1, 1)] == ["1", "1", "2", "2"]
    assert tracker.find_current(name) == {"recipe_id": "1", "manifest": "s3://packed/1.json"}
    current, versions = _registered(tracker, name)
    assert (current, {number: run for number, (run, _) in versions.items()}) == ("2", {"1": runs[0], "2": runs[1]})
    assert versions["2"][1] == {"recipe_id": "1", "manifest": "s3://packed/1.json"}
    assert register(0) == "1"
    assert _registered(tracker, name)[0] == "1"
    assert tracker.find_current(name)["recipe_id"] == "0"
    assert register(2) == "3"
    assert _registered(tracker, name)[0] == "3"
    assert len(_registered(tracker, name)[1]) == 3


@pytest.mark.slow
def test_what_is_current_already_is_left_as_it_is(mlflow_server: Any) -> None:
    from mlflow.tracking import MlflowClient

    tracker, client = open_tracker(mlflow_server.url), MlflowClient(tracking_uri=mlflow_server.url)
    name = f"recipes-{uuid.uuid4()}"
    run = tracker.start_run("contracts", "a run", params={}, tags={})
    states = []
    for _ in range(2):
        tracker.set_current(name, run.run_id, tags={"recipe_id": "1"}, description="d")
        states.append((client.get_registered_model(name), client.get_model_version(name, "1")))
        time.sleep(0.002)  # MLflow's times are milliseconds
    first, second = ((dict(model), dict(version)) for model, version in states)
    assert first == second


@pytest.mark.slow
def test_tables_are_listed_as_those_of_log_table(mlflow_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own reader finds them, of all runs of an experiment together."""
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)  # which `load_table` looks for runs at
    tracker, client = open_tracker(mlflow_server.url), MlflowClient(tracking_uri=mlflow_server.url)
    experiment = f"tables {uuid.uuid4()}"
    runs = [tracker.start_run(experiment, "a run", params={}, tags={}) for _ in range(2)]
    for number, run in enumerate(runs):
        run.log_tables({"recipe/tables/a.json": Table(("packs",), ((number,),))})
        run.log_tables({"recipe/tables/b.json": Table(("packs",), ((number,),))})
    client.log_table(runs[1].run_id, {"packs": [7]}, "recipe/tables/c.json")
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    frame = client.load_table(experiment_id, "recipe/tables/a.json", extra_columns=["run_id"])
    assert dict(zip(frame["run_id"], frame["packs"], strict=True)) == {run.run_id: n for n, run in enumerate(runs)}
    ours, theirs = (json.loads(client.get_run(run.run_id).data.tags["mlflow.loggedArtifacts"]) for run in runs)
    assert theirs == [*ours, {"path": "recipe/tables/c.json", "type": "table"}]


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
def test_a_run_whose_params_are_refused_has_failed(mlflow_server: Any) -> None:
    tracker, name = open_tracker(mlflow_server.url), str(uuid.uuid4())
    with pytest.raises(TrackingError, match="Invalid value"):
        tracker.start_run("contracts", name, params={"recipe_id": "1", "no name?": "2"}, tags={"name": name})
    (run,) = tracker.find_runs("contracts", tags={"name": name}).runs
    assert (run.status, run.name) == ("FAILED", name)


def test_a_server_that_goes_away_between_run_and_params_is_named_by_its_first_error() -> None:
    from mlflow.exceptions import MlflowException

    from packing.adapters.mlflow_tracker import MlflowTracker

    class GoesAway:
        """MLflow's client, whose server makes a run and is gone."""

        ended = ""

        def get_experiment_by_name(self, _: str) -> SimpleNamespace:
            return SimpleNamespace(experiment_id="1", lifecycle_stage="active")

        def create_run(self, *_: object, **__: object) -> SimpleNamespace:
            return SimpleNamespace(info=SimpleNamespace(run_id="0" * 32))

        def log_batch(self, *_: object, **__: object) -> None:
            raise MlflowException("reset by peer")

        def set_terminated(self, _: str, status: str) -> None:
            self.ended = status
            raise MlflowException("connection refused")

    tracker, client = MlflowTracker("http://mlflow"), GoesAway()
    tracker._client = client
    with pytest.raises(TrackingError, match=r"http://mlflow: MLflow failed .*reset by peer"):
        tracker.start_run("contracts", "a run", params={"a": "b"}, tags={})
    assert client.ended == "FAILED"


@pytest.mark.slow
def test_a_param_that_the_server_would_cut_is_refused(mlflow_server: Any) -> None:
    with pytest.raises(TrackingError, match="param long: expected at most"):
        open_tracker(mlflow_server.url).start_run("contracts", "a run", params={"long": "x" * 7000}, tags={})
