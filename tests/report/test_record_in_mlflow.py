"""The record in a real MLflow, as its own clients and readers find it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from packing.adapters import open_tracker
from packing.in_memory import MemoryStorage
from packing.lineage import find_recipe_run, packed_dataset
from packing.parallel import serial
from packing.pipeline import refresh
from packing.recipe import recipe_to_json
from packing.report import RefreshRecord
from packing.report.record import registered_name
from tests.builders import random_sizes, raw_shard, stages_of, store_with
from tests.report.test_record import PARAMETERS, recorded

pytestmark = pytest.mark.slow


@pytest.fixture
def storage() -> MemoryStorage:
    return store_with({f"part-{i}": raw_shard(random_sizes(30, seed=i), seed=i) for i in range(4)})


def test_the_alias_follows_the_refreshes(storage: MemoryStorage, mlflow_server: Any, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    tracker, client = open_tracker(mlflow_server.url), MlflowClient(tracking_uri=mlflow_server.url)
    destination = f"s3://packed/{tmp_path.name}"
    name = registered_name(destination)

    def current() -> Any:
        version = client.get_model_version_by_alias(name, "current")
        return version.tags["recipe_id"], version.run_id, version.version

    first = recorded(storage, tracker, destination)
    one = current()
    storage.write("/raw/part-9", raw_shard(random_sizes(30, seed=9), seed=9))
    second = recorded(storage, tracker, destination)
    two = current()
    storage.delete("/raw/part-9")
    assert recorded(storage, tracker, destination).unchanged
    assert recorded(storage, tracker, destination).unchanged
    assert [one[0], two[0], current()] == [first.recipe.recipe_id, second.recipe.recipe_id, one]
    assert client.get_run(one[1]).data.params["recipe_id"] == first.recipe.recipe_id
    versions = client.search_model_versions(f"name = '{name}'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    assert {version.tags["manifest"] for version in versions} == {first.manifest_uri, second.manifest_uri}
    # A version's source can be downloaded as MLflow does with models.
    from mlflow.artifacts import download_artifacts

    found = Path(download_artifacts(f"runs:/{one[1]}/recipe", tracking_uri=mlflow_server.url))
    assert json.loads((found / "recipe.json").read_bytes())["recipe_id"] == first.recipe.recipe_id


def test_a_dataset_of_which_mlflow_was_not_told_is_told_by_the_next_refresh(
    storage: MemoryStorage, mlflow_server: Any, tmp_path: Path
) -> None:
    tracker, destination = open_tracker(mlflow_server.url), f"s3://packed/it's {tmp_path.name}"
    record = RefreshRecord(storage, tracker, "/raw", destination, {})
    callbacks = {"on_recipe": record.add_recipe, "on_manifest": record.add_manifest}
    broken_off = refresh(storage, stages_of(serial(storage)), "/raw", destination, PARAMETERS, **callbacks)

    def tags() -> Mapping[str, str]:
        run = find_recipe_run(tracker, broken_off.recipe.recipe_id, broken_off.manifest_uri)
        assert run is not None
        return run.tags

    assert tags()["stowage.packed"] == broken_off.manifest_uri
    assert "stowage.manifest" not in tags()
    assert recorded(storage, tracker, destination).unchanged
    assert tags()["stowage.manifest"] == broken_off.manifest_uri
    assert tracker.find_current(registered_name(destination))["recipe_id"] == broken_off.recipe.recipe_id


def test_a_recipes_run_and_its_trainings_share_a_dataset(
    storage: MemoryStorage, mlflow_server: Any, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    tracker, client = open_tracker(mlflow_server.url), MlflowClient(tracking_uri=mlflow_server.url)
    outcome = recorded(storage, tracker, str(tmp_path))
    training = tracker.start_run("bert-pretraining", "packed", params={}, tags={})
    training.log_inputs([packed_dataset(outcome.manifest, outcome.manifest_uri, "training")])
    recorded_run = find_recipe_run(tracker, outcome.recipe.recipe_id, outcome.manifest_uri)
    assert recorded_run is not None
    recipe_run = client.get_run(recorded_run.run_id)
    datasets = [
        {
            (entry.dataset.name, entry.dataset.digest): (
                entry.dataset.source,
                entry.dataset.schema,
                entry.dataset.profile,
            )
            for entry in run.inputs.dataset_inputs
        }
        for run in (recipe_run, client.get_run(training.run_id))
    ]
    assert datasets[1].items() < datasets[0].items()
    found = client.search_runs([recipe_run.info.experiment_id], f"dataset.name = '{tmp_path}'")
    assert [run.info.run_id for run in found] == [recipe_run.info.run_id]
    statistics = recipe_to_json(outcome.recipe)["statistics"]
    assert (
        recipe_run.data.metrics.items()
        >= {name: value for name, value in statistics.items() if type(value) in (int, float)}.items()
    )
    listed = json.loads(recipe_run.data.tags["mlflow.loggedArtifacts"])
    assert {"path": "recipe/tables/top_strategies.json", "type": "table"} in listed
