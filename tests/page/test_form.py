from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packing.in_memory import MemoryTracker
from packing.types import Parameters
from stowage_airflow.page.access import may_refresh
from stowage_airflow.page.form import Form, fields_of, read_form
from tests.page.builders import SOURCE, recipe_of, track
from tests.page.opened import Page, Parsed

PARAMS: Mapping[str, tuple[Any, Mapping[str, Any], str | None]] = {
    "source": ("s3://raw/<x>", {"type": "string", "pattern": "^s3://.*$", "title": "Source", "section": "Data"}, None),
    "seed": (0, {"type": "integer", "minimum": 0, "section": "Packing"}, "Order of `packs`."),
    "solver": ("nnls", {"type": "string", "enum": ["optimal", "nnls"], "section": "Packing"}, None),
    "time_limit": (None, {"type": ["number", "null"], "exclusiveMinimum": 0, "section": "Packing"}, None),
    "approve": (True, {"type": "boolean"}, None),
    "dry_run": (False, {"type": "boolean"}, None),
    "tags": ([], {"type": "array"}, None),
}


def with_form(page: Page, *, may: bool = True, paused: bool = False) -> None:
    page.app.dependency_overrides[read_form] = lambda: Form(fields_of(PARAMS), dry_run=True, paused=paused)
    page.app.dependency_overrides[may_refresh] = lambda: may


def inputs(parsed: Parsed) -> dict[str, dict[str, str]]:
    return {e.attributes["name"]: e.attributes for e in parsed.elements if "data-kind" in e.attributes}


def test_the_form_is_the_dags(page: Page) -> None:
    with_form(page)
    parsed = page.get("/refresh")
    found = inputs(parsed)
    assert list(found) == ["source", "seed", "solver", "time_limit", "approve"]
    assert found["source"]["value"] == "s3://raw/<x>"
    assert found["source"]["data-pattern"] == "^s3://.*$"
    assert (found["seed"]["data-minimum"], found["time_limit"]["data-exclusive-minimum"]) == ("0", "0")
    assert [name for name, entry in found.items() if "required" in entry] == ["source", "seed", "solver"]
    assert "checked" in found["approve"]
    assert [o.text for o in parsed.all("option") if "selected" in o.attributes] == ["nnls"]
    assert [legend.text for legend in parsed.all("legend")] == ["Data", "Packing", "Options"]
    assert [code.text for code in parsed.all("code") if code.within("help-seed")] == ["packs"]
    labels = {label.attributes["for"] for label in parsed.all("label")}
    helped = {e.attributes["id"] for e in parsed.elements if "id" in e.attributes}
    for entry in found.values():
        assert entry["id"] in labels
        assert set(entry["aria-describedby"].split()) <= helped


def test_the_form_is_filled_in_from_a_recipe(page: Page, tracker: MemoryTracker) -> None:
    recipe = recipe_of([[5]], Parameters(max_sequence_length=24, solver="optimal", seed=77))
    track(tracker, recipe)
    with_form(page)
    parsed = page.get(f"/refresh?recipe={recipe.recipe_id}")
    found = inputs(parsed)
    assert (found["source"]["value"], found["seed"]["value"]) == (SOURCE, "77")
    assert [o.text for o in parsed.all("option") if "selected" in o.attributes] == ["optimal"]


def test_who_may_not_trigger_the_dag_is_told_why_the_buttons_do_nothing(page: Page) -> None:
    with_form(page)
    buttons = page.get("/refresh").all("button")
    assert [b.text for b in buttons] == ["Dry run", "Refresh"]  # the Enter key presses the first
    assert not any("disabled" in b.attributes for b in buttons)
    with_form(page, may=False)
    parsed = page.get("/refresh")
    for button in parsed.all("button"):
        assert "disabled" in button.attributes
        assert button.attributes["aria-describedby"] == "refused"
    (why,) = [e.text for e in parsed.elements if e.attributes.get("id") == "refused"]
    assert "permission to trigger the DAG refresh_packed_dataset" in why


def test_a_paused_dag_is_said_to_be_paused(page: Page) -> None:
    with_form(page, paused=True)
    assert "is paused" in page.get("/refresh").said()
    with_form(page)
    assert "is paused" not in page.get("/refresh").said()
