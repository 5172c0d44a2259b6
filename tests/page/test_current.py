"""Which recipe is the current one of a destination, as MLflow's registry says."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from packing.errors import TrackerRefusedError
from packing.in_memory import MemoryTracker
from tests.page.builders import DESTINATION, make_current, small_recipe, track
from tests.page.opened import Page, Parsed, open_page


def current_rows(parsed: Parsed) -> list[str]:
    found = [li.parents for li in parsed.all("li") if li.text == "current"]
    return [parent.attributes["data-run"] for parents in found for parent in parents if "data-run" in parent.attributes]


def test_the_current_recipe_of_a_destination_is_marked(page: Page, tracker: MemoryTracker) -> None:
    older, newer, rejected = (small_recipe(seed) for seed in range(3))
    first, second = track(tracker, older), track(tracker, newer)
    make_current(tracker, first)
    make_current(tracker, second)
    track(tracker, rejected, committed=False)
    elsewhere = track(tracker, older, destination="s3://packed/copy")
    make_current(tracker, elsewhere)
    assert current_rows(page.get("/")) == []  # of two destinations
    assert current_rows(page.get(f"/?destination={DESTINATION}")) == [second.run_id]
    assert current_rows(page.get("/?destination=s3://packed/copy")) == [elsewhere.run_id]
    assert "This is the current recipe of its destination" in page.get(f"/recipes/{newer.recipe_id}").said()
    to_newer = f"/stowage/recipes/{newer.recipe_id}?{urlencode({'destination': DESTINATION})}"
    for recipe, said in ((older, "Not current"), (rejected, "No packed dataset was committed under this record")):
        parsed = page.get(f"/recipes/{recipe.recipe_id}?destination={DESTINATION}")
        assert said in parsed.said()
        assert to_newer in parsed.links()
    page.get(to_newer.removeprefix("/stowage"))
    assert "no record of this recipe" in page.get(f"/recipes/{newer.recipe_id}?destination=s3://other", 404).alert()


def test_without_a_registry_the_pages_are_there() -> None:
    class WithoutRegistry(MemoryTracker):
        def find_current(self, name: str) -> Mapping[str, str]:
            raise TrackerRefusedError(f"{name}: forbidden")

    closed = WithoutRegistry()
    recipe = small_recipe()
    track(closed, recipe)
    for path in ("/", f"/recipes/{recipe.recipe_id}"):
        assert "dataset committed" in open_page(closed).get(path).said()
