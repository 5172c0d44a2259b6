"""The page on a real MLflow."""

from __future__ import annotations

import json

import pytest

from demo.servers import MlflowServer
from packing.adapters import open_tracker
from packing.report import record_manifest, track_recipe
from packing.report.record import registered_name
from packing.types import Parameters
from tests.page.builders import DESTINATION, SOURCE, manifest_of, recipe_of
from tests.page.opened import open_page
from tests.page.test_figures import check_places


@pytest.mark.slow
def test_the_pages_of_a_recipe_that_mlflow_recorded(mlflow_server: MlflowServer) -> None:
    tracker = open_tracker(mlflow_server.url)
    recipes = [recipe_of([[5, 6, 20], [7, 3]], Parameters(max_sequence_length=24, seed=seed)) for seed in (11, 12)]
    runs = []
    for recipe in recipes:
        run = track_recipe(tracker, recipe, source=SOURCE, destination=DESTINATION, tags={}, reused=())
        uri = f"{DESTINATION}/manifests/{recipe.recipe_id}.json"
        record_manifest(tracker.open_run(run.run_id), manifest_of(recipe), None, uri=uri)
        tracker.open_run(run.run_id).set_tags({"stowage.manifest": uri})
        runs.append(run)
    tags = {"recipe_id": recipes[0].recipe_id, "manifest": f"{DESTINATION}/manifests/{recipes[0].recipe_id}.json"}
    tracker.set_current(registered_name(DESTINATION), runs[0].run_id, tags=tags, description="recipes")
    training = tracker.start_run("bert-pretraining", "trained", params={"recipe_id": recipes[0].recipe_id}, tags={})
    training.finish()

    page = open_page(tracker)
    document = json.loads(page.client.get(f"/stowage/recipes/{recipes[0].recipe_id}/recipe.json").content)
    assert document["recipe_id"] == recipes[0].recipe_id
    rows = [row for row in page.get(f"/?destination={DESTINATION}").all("tr") if row.attributes.get("data-recipe")]
    assert {row.attributes["data-recipe"] for row in rows} >= {recipe.recipe_id for recipe in recipes}
    assert [row.attributes["data-recipe"] for row in rows if "current" in row.text] == [recipes[0].recipe_id]
    parsed = page.get(f"/recipes/{recipes[0].recipe_id}")
    assert "This is the current recipe of its destination" in parsed.said()
    assert "statistics.packs" in check_places(parsed, document)
    assert len(parsed.rows("packed-shards")) == 2
    assert any(link.endswith(f"/#/runs/{training.run_id}") for link in parsed.links())
    assert "start from the first page" in page.get("/?page=guessed", 400).alert()
    page.get(f"/compare?recipe={recipes[0].recipe_id}&recipe={recipes[1].recipe_id}")
    assert "has no record of it" in page.get(f"/recipes/{'0' * 64}", 404).alert()


@pytest.mark.slow
def test_a_server_that_is_away_is_said_to_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    page = open_page(open_tracker("http://127.0.0.1:9"))
    assert "MLflow does not answer" in page.get("/", 503).alert()
