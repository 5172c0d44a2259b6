from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from packing.errors import TrackerAwayError
from packing.in_memory import MemoryTracker
from packing.ports import FoundRuns
from packing.types import Recipe
from tests.page.builders import small_recipe, track
from tests.page.opened import MLFLOW_URL, Page, open_page


def altered(change: Callable[[Any], object]) -> Callable[[Recipe, MemoryTracker], None]:
    def alter(recipe: Recipe, tracker: MemoryTracker) -> None:
        run = track(tracker, recipe)
        document = json.loads(run.artifacts["recipe/recipe.json"])
        change(document)
        run.artifacts["recipe/recipe.json"] = json.dumps(document).encode()

    return alter


def replaced(recipe: Recipe, tracker: MemoryTracker) -> None:
    other = track(tracker, small_recipe(seed=1)).artifacts["recipe/recipe.json"]
    track(tracker, recipe).artifacts["recipe/recipe.json"] = other


def not_recorded(recipe: Recipe, tracker: MemoryTracker) -> None:
    """Nothing is known of the recipe."""


def without_artifact(recipe: Recipe, tracker: MemoryTracker) -> None:
    del track(tracker, recipe).artifacts["recipe/recipe.json"]


def not_json(recipe: Recipe, tracker: MemoryTracker) -> None:
    track(tracker, recipe).artifacts["recipe/recipe.json"] = b"<html>"


@pytest.mark.parametrize(
    ("prepare", "status", "said"),
    [
        (not_recorded, 404, "MLflow has no record of it"),
        (without_artifact, 404, "has no artifact recipe/recipe.json"),
        (not_json, 502, "not a recipe"),
        (altered(lambda d: d["strategies"][0].update(count=99)), 502, "the recipe was altered"),
        (altered(lambda d: d.update(recipe_id="0" * 64)), 502, "the recipe was altered"),
        (altered(lambda d: d["statistics"].pop("gap")), 502, "not a recipe"),
        (altered(lambda d: d["partitions"][0].update(records=[])), 502, "not a recipe"),
        (replaced, 502, "the artifact was replaced"),
    ],
)
def test_what_is_missing_or_altered_is_said_instead_of_shown(
    page: Page, tracker: MemoryTracker, prepare: Callable[[Recipe, MemoryTracker], None], status: int, said: str
) -> None:
    recipe = small_recipe()
    prepare(recipe, tracker)
    assert said in page.get(f"/recipes/{recipe.recipe_id}", status).alert()


def test_figures_that_do_not_follow_from_the_recipe_are_marked(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    altered(lambda d: d["statistics"].update(packs=1, gap=0))(recipe, tracker)
    parsed = page.get(f"/recipes/{recipe.recipe_id}")
    assert "This recipe does not hold together" in parsed.alert()
    assert "statistics.packs: expected" in parsed.alert()
    assert "proven optimal" not in parsed.said().lower()


def test_a_comparison_marks_them_too(page: Page, tracker: MemoryTracker) -> None:
    recipe, other = small_recipe(), small_recipe(seed=1)
    altered(lambda d: d["statistics"].update(packs=1, gap=0))(recipe, tracker)
    track(tracker, other)
    parsed = page.get(f"/compare?recipe={recipe.recipe_id}&recipe={other.recipe_id}")
    assert "Older recipe does not hold together" in parsed.alert()
    assert "Newer recipe does not" not in parsed.alert()
    assert "not proven" in parsed.said()


class Away(MemoryTracker):
    """A server that does not answer."""

    def find_runs(self, *args: Any, **options: Any) -> FoundRuns:  # noqa: ARG002 - the port's signature
        raise TrackerAwayError("http://mlflow?key=secret: MLflow failed (refused)")


@pytest.mark.parametrize("path", ["/", f"/recipes/{'a' * 64}", f"/compare?recipe={'a' * 64}&recipe={'b' * 64}"])
def test_without_mlflow_the_page_says_so(path: str) -> None:
    parsed = open_page(Away()).get(path, 503)
    assert parsed.all("h1")[0].text == "MLflow does not answer"
    assert "check the address" in parsed.alert()
    assert "secret" not in parsed.said()


class Broken(MemoryTracker):
    """A defect."""

    def find_runs(self, *args: Any, **options: Any) -> FoundRuns:  # noqa: ARG002 - the port's signature
        raise ZeroDivisionError("a secret")


def test_a_defect_shows_no_details() -> None:
    page = open_page(Broken())
    parsed = page.get("/", 500)
    assert "ZeroDivisionError" in parsed.alert()
    assert "secret" not in parsed.said()
    assert "Traceback" not in parsed.said()


def test_a_page_about_one_record_that_cannot_be_shown_leads_to_the_record(page: Page, tracker: MemoryTracker) -> None:
    recipe, other = small_recipe(), small_recipe(seed=1)
    track(tracker, other)
    altered(lambda d: d["strategies"][0].update(count=99))(recipe, tracker)
    (run_id,) = [run.run_id for run in tracker.runs.values() if run.params["recipe_id"] == recipe.recipe_id]
    own = f"/stowage/recipes/{recipe.recipe_id}"
    for path in (f"/recipes/{recipe.recipe_id}", f"/compare?recipe={recipe.recipe_id}&recipe={other.recipe_id}"):
        links = page.get(path, 502).links()
        assert f"{MLFLOW_URL}/#/runs/{run_id}" in links
        assert {f"{own}/recipe.json?run={run_id}", f"{own}/manifest.json?run={run_id}"} <= set(links)


def test_what_is_not_there_is_not_offered(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    without_artifact(recipe, tracker)
    links = page.get(f"/recipes/{recipe.recipe_id}", 404).links()
    assert any(link.startswith(MLFLOW_URL) for link in links)
    assert not any("recipe.json" in link for link in links)


@pytest.mark.parametrize("content", [b"{}", b"<html>", b"[]", None])
def test_a_bad_manifest_takes_nothing_from_its_recipe(
    page: Page, tracker: MemoryTracker, content: bytes | None
) -> None:
    recipe = small_recipe()
    other = track(tracker, small_recipe(seed=1)).artifacts["recipe/manifest.json"]
    track(tracker, recipe).artifacts["recipe/manifest.json"] = content or other
    parsed = page.get(f"/recipes/{recipe.recipe_id}")
    assert parsed.rows("raw-shards")
    assert "The copy of the manifest in MLflow is not the one of this recipe" in parsed.said()
    assert ("the artifact was replaced" if content is None else "not a manifest") in parsed.said()
    assert any("/manifest.json" in link for link in parsed.links())


def test_a_page_of_the_list_that_was_never_linked_is_the_callers_mistake(page: Page) -> None:
    assert "start from the first page" in page.get("/?page=guessed", 400).alert()


@pytest.mark.parametrize("query", ["", "?recipe=a", "?recipe=a&recipe=b&recipe=c"])
def test_a_comparison_is_of_two(page: Page, query: str) -> None:
    assert "expected two recipes" in page.get(f"/compare{query}", 400).alert()


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/static", "/static/0/page.css", "/recipes"])
def test_there_is_nothing_else(page: Page, path: str) -> None:
    page.get(path, 404)
