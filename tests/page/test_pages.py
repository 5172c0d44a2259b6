from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from packing.in_memory import MemoryTracker
from packing.ports import FoundRuns, Metric, TrackedRun
from packing.report import track_recipe
from packing.types import Parameters
from stowage_airflow.connections import mlflow_uri
from stowage_airflow.page import records
from stowage_airflow.page.access import may_see_trainings
from tests.page.builders import (
    DESTINATION,
    FROM_AIRFLOW,
    SOURCE,
    recipe_of,
    small_recipe,
    track,
    track_training,
)
from tests.page.opened import MLFLOW_URL, Page, open_page
from tests.page.test_form import inputs, with_form

PARAMETERS = Parameters(max_sequence_length=24)
REJECTED = ["no packed dataset", "rejected by <op>"]


def test_a_row_links_to_the_dag_run_the_mlflow_run_the_manifest_and_the_trainings(
    page: Page, tracker: MemoryTracker
) -> None:
    recipe = small_recipe()
    run = track(tracker, recipe, tags=FROM_AIRFLOW)
    training = track_training(tracker, f"{recipe.recipe_id} {'f' * 64}", speedup=1.75)
    track_training(tracker, "e" * 64, speedup=9.5)
    parsed = page.get("/")
    assert {
        f"/stowage/recipes/{recipe.recipe_id}?run={run.run_id}",
        "/dags/refresh_packed_dataset/runs/manual__2026-11-22T02%3A00%3A00%2B00%3A00",
        f"{MLFLOW_URL}/#/runs/{run.run_id}",
        f"{MLFLOW_URL}/#/runs/{training.run_id}",
        f"/stowage/recipes/{recipe.recipe_id}/manifest.json?run={run.run_id}",
    } <= set(parsed.links())
    assert "measured speed-up 1.7500" in parsed.said()
    assert "<admin>, by hand" in parsed.said()
    assert "9.5" not in parsed.said()


def test_links_that_leave_the_page_say_where_they_open(page: Page, tracker: MemoryTracker) -> None:
    track(tracker, small_recipe(), tags=FROM_AIRFLOW)
    outside = [a.attributes for a in page.get("/").all("a") if not a.attributes["href"].startswith(("/stowage", "#"))]
    assert len(outside) == 3
    assert outside[0]["href"] == "/", "back to Airflow"
    for link in outside:
        away = link["href"].startswith(MLFLOW_URL)
        assert (link["target"], link.get("rel")) == (("_blank", "noopener") if away else ("_top", None))


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({}, ["no packed dataset"]),
        ({"stowage.manifest": "s3://m.json"}, ["dataset committed"]),
        ({"stowage.manifest": "s3://m.json", "stowage.audit": "passed"}, ["dataset committed", "audit passed"]),
        ({"stowage.manifest": "s3://m.json", "stowage.audit": "failed"}, ["dataset committed", "audit failed"]),
        ({"stowage.signed_by": "SHA256:abc"}, ["no packed dataset", "signature recorded"]),
        ({"stowage.approval": "rejected by <op>, 2026-11-22 02:00 UTC\napproved by ada"}, REJECTED),
    ],
)
def test_the_state_says_what_became_of_a_recipe(
    page: Page, tracker: MemoryTracker, tags: Mapping[str, str], words: list[str]
) -> None:
    track(tracker, small_recipe(), tags=tags, committed=False)
    state = [li.text for li in page.get("/").all("li") if "state" in li.parents[-1].attributes.get("class", "")]
    assert state == words


def test_a_recipes_page_says_who_answered_what_about_it(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    track(tracker, recipe, tags={"stowage.approval": "rejected by op, at 2\napproved by ada, at 1"}, committed=False)
    said = page.get(f"/recipes/{recipe.recipe_id}").said()
    assert "newest first: rejected by op, at 2 approved by ada, at 1" in said


def test_what_the_pipeline_records_is_what_the_page_reads(page: Page, tracker: MemoryTracker) -> None:
    recipe = recipe_of([[5, 6, 20, 7, 3]], PARAMETERS)
    reused = {recipe.partitions[0].digest}
    track_recipe(tracker, recipe, source=SOURCE, destination=DESTINATION, tags={}, reused=reused)
    assert "proven optimal" in page.get("/").said()
    assert "not recorded" in page.get("/").said()  # who triggered it
    parsed = page.get(f"/recipes/{recipe.recipe_id}")
    assert SOURCE in parsed.said()
    assert "does not hold together" not in parsed.said()
    assert "1 of 1 partitions were in the store already" in parsed.said()
    with_form(page)
    found = inputs(page.get(f"/refresh?recipe={recipe.recipe_id}"))
    assert (found["source"]["value"], found["seed"]["value"]) == (SOURCE, "0")


def test_a_record_of_nothing_but_its_id_is_shown_as_such(page: Page, tracker: MemoryTracker) -> None:
    tracker.start_run("packing-recipes", "old", params={"recipe_id": "a" * 64}, tags={}).finish("FAILED")
    assert "recording failed" in page.get("/").said()
    assert "proven" not in page.get("/").said().replace("proven lower bound", "")


def test_a_run_that_does_not_say_which_recipe_it_is_of_leads_nowhere(page: Page, tracker: MemoryTracker) -> None:
    run = tracker.start_run("packing-recipes", "broken off", params={}, tags={})
    parsed = page.get("/")
    assert "recipe not recorded" in parsed.said()
    assert "recording failed" in parsed.said()
    own = [link for link in parsed.links() if "/recipes/" in link]
    assert own == []
    assert f"{MLFLOW_URL}/#/runs/{run.run_id}" in parsed.links()
    assert [box for box in parsed.all("input") if box.attributes.get("name") == "recipe"] == []


def test_the_list_is_of_one_dataset_if_asked(page: Page, tracker: MemoryTracker) -> None:
    here, there = small_recipe(), small_recipe(seed=1)
    track(tracker, here)
    track(tracker, there, destination="s3://packed/other & more")
    rows = page.get("/?destination=s3://packed/other%20%26%20more").all("tr")
    assert [row.attributes["data-recipe"] for row in rows[1:]] == [there.recipe_id]
    assert "No recipe of this dataset" in page.get("/?destination=s3://nowhere").said()


def test_pages_of_the_list_hold_every_recipe_once_newest_first(page: Page, tracker: MemoryTracker) -> None:
    count = 2 * records.PAGE_ROWS + 1
    for number in range(count):
        tracker.start_run("packing-recipes", "", params={"recipe_id": f"{number:064x}", "destination": "d"}, tags={})
    seen: list[str] = []
    path = "/?destination=d"
    while path and len(seen) <= count:
        parsed = page.get(path)
        seen += [row.attributes["data-recipe"] for row in parsed.all("tr")[1:]]
        following = [a.attributes["href"] for a in parsed.all("a") if a.attributes.get("rel") == "next"]
        path = following[0].removeprefix("/stowage") if following else ""
    assert seen == [f"{number:064x}" for number in reversed(range(count))]


class Counting(MemoryTracker):
    """Counts the searches."""

    searches = 0

    def find_runs(self, *args: Any, **options: Any) -> FoundRuns:
        self.searches += 1
        return super().find_runs(*args, **options)


def test_the_list_searches_twice_however_long_it_is() -> None:
    tracker = Counting()
    for seed in range(5):
        track(tracker, small_recipe(seed))
    open_page(tracker).get("/")
    assert tracker.searches == 2


def test_a_row_shows_the_newest_three_speed_ups_and_leads_to_the_rest(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    track(tracker, recipe)
    runs = [track_training(tracker, recipe.recipe_id, speedup=1 + number / 10) for number in range(5)]
    runs.append(track_training(tracker, recipe.recipe_id))
    for number, run in enumerate(runs):
        run.started = number
    parsed = page.get("/")
    (more,) = parsed.all("details")
    assert [more.text.count(f"{1 + number / 10:.4f}") for number in range(5)] == [1, 1, 0, 0, 0]
    assert more.text.split("\n")[1] == "3 more"
    assert {f"{MLFLOW_URL}/#/runs/{run.run_id}" for run in runs} <= set(parsed.links())


def test_every_digest_is_on_the_page_as_text(page: Page, tracker: MemoryTracker) -> None:
    older, newer = small_recipe(), small_recipe(seed=1)
    for number, recipe in enumerate((older, newer)):
        track(tracker, recipe).started = number
    own = page.get(f"/recipes/{newer.recipe_id}")
    digests = [shard.sha256 for shard in newer.shards] + [partition.digest for partition in newer.partitions]
    assert [digest for digest in digests if digest not in own.said()] == []
    compared = page.get(f"/compare?recipe={older.recipe_id}&recipe={newer.recipe_id}").said()
    assert [shard.sha256 for shard in (*older.shards, *newer.shards) if shard.sha256 not in compared] == []


def test_tables_that_become_cards_keep_their_roles_and_name_their_cells(page: Page, tracker: MemoryTracker) -> None:
    recipes = [small_recipe(seed) for seed in range(2)]
    for recipe in recipes:
        track(tracker, recipe)
    both = "&".join(f"recipe={recipe.recipe_id}" for recipe in recipes)
    roles = {"thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}
    seen = 0
    for path in ("/", f"/compare?{both}"):
        for element in page.get(path).elements:
            tables = [parent for parent in element.parents if parent.attributes.get("role") == "table"]
            if not tables or element.tag not in {*roles, "th"}:
                continue
            seen += 1
            scope = {"col": "columnheader", "row": "rowheader"}.get(element.attributes.get("scope", ""))
            assert element.attributes.get("role") == roles.get(element.tag, scope), element
            assert element.tag != "td" or element.attributes.get("data-label"), element
    assert seen > 100


def test_trainings_are_for_those_who_may_read_their_runs(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    track(tracker, recipe)
    training = track_training(tracker, recipe.recipe_id, speedup=1.75)
    paths = ["/", f"/recipes/{recipe.recipe_id}"]
    assert all(training.name in page.get(path).said() for path in paths)
    page.app.dependency_overrides[may_see_trainings] = lambda: False
    for path in paths:
        found = page.client.get(f"/stowage{path}").text
        assert training.run_id not in found
        assert training.name not in found
        assert "1.75" not in found


def test_the_list_names_trainings_however_many_came_after_them(page: Page, tracker: MemoryTracker) -> None:
    recipe, other = small_recipe(), small_recipe(seed=1)
    track(tracker, recipe)
    first = track_training(tracker, recipe.recipe_id, speedup=1.75)
    for _ in range(records.LISTED_TRAININGS + 1):
        track_training(tracker, other.recipe_id)
    parsed = page.get("/")
    assert f"{MLFLOW_URL}/#/runs/{first.run_id}" in parsed.links()
    assert "Only the most recent trainings" not in parsed.said()
    track(tracker, other)
    assert "Only the most recent trainings" in page.get("/").said()


def test_a_recipes_page_has_all_its_trainings_and_no_others(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    track(tracker, recipe)
    alike = recipe.recipe_id[:32] + "f" * 32  # the same digest for MLflow
    own = [track_training(tracker, f"{alike} {recipe.recipe_id}") for _ in range(101)]
    unlinked = tracker.start_run("bert-pretraining", "by param", params={"recipe_id": recipe.recipe_id}, tags={})
    foreign = track_training(tracker, alike)
    links = page.get(f"/recipes/{recipe.recipe_id}").links()
    assert {f"{MLFLOW_URL}/#/runs/{run.run_id}" for run in (*own, unlinked)} <= set(links)
    assert f"{MLFLOW_URL}/#/runs/{foreign.run_id}" not in links


def test_every_record_of_a_recipe_can_be_opened(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    first = track(tracker, recipe, destination="s3://packed/first")
    for _ in range(100):
        tracker.start_run("packing-recipes", "again", params={"recipe_id": recipe.recipe_id}, tags={})
    assert "s3://packed/first/manifests" in page.get(f"/recipes/{recipe.recipe_id}?run={first.run_id}").said()


def test_records_of_one_recipe_are_compared_as_they_were_ticked(page: Page, tracker: MemoryTracker) -> None:
    recipe, other = small_recipe(), small_recipe(seed=1)
    runs = [track(tracker, recipe, destination=f"s3://packed/{name}") for name in ("one", "two")]
    track(tracker, other, destination="s3://packed/three")
    boxes = [box.attributes for box in page.get("/").all("input") if box.attributes.get("name") == "recipe"]
    assert len({box["aria-label"] for box in boxes}) == 3
    ticked = {box["aria-label"].split()[4].rstrip(","): box["value"] for box in boxes}
    first, second, third = (ticked[f"s3://packed/{name}"] for name in ("one", "two", "three"))
    for pair in ((first, third), (second, third), (first, second)):
        said = page.get(f"/compare?recipe={pair[0]}&recipe={pair[1]}").said()
        shown = {name for name, value in ticked.items() if f"{name} " in f"{said} "}
        assert shown == {name for name, value in ticked.items() if value in pair}
    newest = page.get(f"/compare?recipe={recipe.recipe_id}&recipe={other.recipe_id}")
    assert "s3://packed/two" in newest.said()
    for again in (recipe.recipe_id, second):
        alert = page.get(f"/compare?recipe={second}&recipe={again}", 400).alert()
        assert f"got MLflow run {runs[1].run_id} twice" in alert


def test_a_destination_that_mlflow_cannot_look_for_is_named_without_a_link(page: Page, tracker: MemoryTracker) -> None:
    odd, sound = """s3://packed/"a" and 'b'""", "s3://packed/it's"
    track(tracker, small_recipe(), destination=odd)
    track(tracker, small_recipe(seed=1), destination=sound)
    parsed = page.get("/")
    assert odd in parsed.said()
    linked = [link.text for link in parsed.all("a") if "destination=" in link.attributes["href"]]
    assert linked == [sound]


def test_names_that_are_no_text_are_legible_everywhere(page: Page, tracker: MemoryTracker) -> None:
    prefix, told = os.fsdecode(b"part-\xff\xe9"), "part-\\xff\\xe9"
    recipes = [recipe_of([[5, 6], [7]], PARAMETERS, rejected=1, seed=seed, prefix=prefix) for seed in range(2)]
    for recipe in recipes:
        track(tracker, recipe, destination=f"s3://packed/{prefix}")
    parsed = page.get(f"/recipes/{recipes[0].recipe_id}")
    (raw,) = [code for code in parsed.all("code") if code.text == f"{told}-00001.tfrecord"]
    assert raw.attributes["title"] == f"{SOURCE}/{told}-00001.tfrecord"
    assert f"<b>75</b> {told}-00000.tfrecord" in parsed.said()  # a rejected record
    compared = page.get(f"/compare?recipe={recipes[0].recipe_id}&recipe={recipes[1].recipe_id}")
    assert f"{told}-00001.tfrecord" in compared.said()
    listed = page.get("/")
    assert f"s3://packed/{told}" in listed.said()
    assert f"/stowage/?{urlencode({'destination': f's3://packed/{told}'})}" in listed.links()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("packs", float("nan")),
        ("packs", 12.5),
        ("sequences", 1e308),
        ("gap", -1.0),
        ("packing_efficiency", 1.5),
        ("packing_factor", -2.0),
        ("packing_factor", float("inf")),
    ],
)
def test_what_can_be_no_figure_is_not_shown_as_one(page: Page, tracker: MemoryTracker, name: str, value: float) -> None:
    track(tracker, small_recipe()).log_metrics([Metric(name, value, 1, 1)])
    parsed = page.get("/")
    assert f"statistics.{name}" not in {place for place, _ in parsed.figures()}
    assert "no valid figure" in parsed.said()


@pytest.mark.parametrize("reused", [3.0, -1.0, 0.5, float("nan")])
def test_more_partitions_than_there_are_were_not_reused(page: Page, tracker: MemoryTracker, reused: float) -> None:
    recipe = small_recipe()
    track(tracker, recipe).log_metrics([Metric("partitions_reused", reused, 0, 0)])
    said = page.get(f"/recipes/{recipe.recipe_id}").said()
    assert "How many partitions were reused: no valid figure." in said
    assert "were to be written" not in said


def test_a_speed_up_that_can_be_none_is_not_shown_as_one(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    track(tracker, recipe)
    track_training(tracker, recipe.recipe_id, speedup=-1e308)
    assert "measured speed-up no valid figure" in page.get("/").said()


def test_a_recipe_that_is_still_being_recorded_is_said_to_be(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    track(tracker, recipe, committed=False).status = "RUNNING"
    assert "being recorded" in page.get("/").said()
    assert "no packed dataset is committed yet" in page.get(f"/recipes/{recipe.recipe_id}").said()


def test_a_destination_is_found_as_it_is_typed_or_the_known_ones_are_offered(
    page: Page, tracker: MemoryTracker
) -> None:
    recipe = small_recipe()
    track(tracker, recipe)
    for typed in (DESTINATION, f" {DESTINATION} ", f"{DESTINATION}/", f"{DESTINATION}// "):
        rows = page.get(f"/?{urlencode({'destination': typed})}").all("tr")
        assert [row.attributes["data-recipe"] for row in rows[1:]] == [recipe.recipe_id]
    nothing = page.get(f"/?destination={DESTINATION}-2")
    assert "must be exactly that of the destination" in nothing.said()
    assert f"/stowage/?{urlencode({'destination': DESTINATION})}" in nothing.links()


def test_another_record_of_the_same_recipe_has_its_own_page(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    first, second = track(tracker, recipe), track(tracker, recipe, destination="s3://packed/copy")
    assert "s3://packed/copy/manifests" in page.get(f"/recipes/{recipe.recipe_id}").said()
    older = page.get(f"/recipes/{recipe.recipe_id}?run={first.run_id}")
    assert "s3://packed/copy/manifests" not in older.said()
    assert f"/stowage/recipes/{recipe.recipe_id}?run={second.run_id}" in older.links()


def test_downloads_are_the_artifacts_byte_for_byte(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    run = track(tracker, recipe)
    for kind in ("recipe", "manifest"):
        answer = page.client.get(f"/stowage/recipes/{recipe.recipe_id}/{kind}.json")
        assert answer.content == run.artifacts[f"recipe/{kind}.json"]
        name = f"{kind}-{recipe.recipe_id[:12]}.json"
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'


def test_where_mlflow_is_comes_from_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "http", "host": "m", "port": 5000}))
    assert mlflow_uri() == "http://m:5000"


def test_times_are_utc() -> None:
    run = TrackedRun("r", "", "FINISHED", 1_800_000_000_000, {}, {}, {})
    assert records.record_of(run).started.isoformat() == "2027-01-15T08:00:00+00:00"
