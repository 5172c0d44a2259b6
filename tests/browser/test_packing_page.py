"""The Packing page as its users meet it: in Airflow, in a browser, with their rights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest

from demo.airflow import USER
from packing.recipe import recipe_uri
from tests.browser.conftest import DESTINATION, OTHER, PREDICTIONS, SLOTS, SOURCE, Packed
from tests.browser.site import READER, Site

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Locator, Page

pytestmark = pytest.mark.exhaustive

Open = Callable[..., "Page"]
LIST, REFRESH = "/stowage/", "/stowage/refresh"
RUN_MILLISECONDS = 180_000
DRY_RUN = {"dry_run": True, "max_sequence_length": SLOTS, "max_predictions_per_sequence": PREDICTIONS}


def recipe_path(packed: dict[str, Any]) -> str:
    return f"/stowage/recipes/{packed['recipe_id']}"


def compare_path(packed: Packed) -> str:
    return f"/stowage/compare?recipe={packed.first['recipe_id']}&recipe={packed.second['recipe_id']}"


def figure(place: Locator | Page, name: str) -> float:
    """The exact value of a figure, which its rounded text carries with it."""
    return float(str(place.locator(f'data[data-of="{name}"]').first.get_attribute("value")))


def fill(page: Page, **values: object) -> None:
    for name, value in values.items():
        page.locator(f"[name={name}]").fill(str(value))


def test_a_user_logs_in_and_finds_the_recipes_in_airflow(open_page: Open, packed: Packed) -> None:
    page = open_page("/")
    page.get_by_role("link", name="Packing").click()
    frame: FrameLocator = page.frame_locator("iframe")
    rows = frame.locator("table tr[data-recipe]")
    rows.nth(2).wait_for()
    found = [row.get_attribute("data-recipe") for row in rows.all()]
    assert found == [packed.pairs["recipe_id"], packed.second["recipe_id"], packed.first["recipe_id"]]
    frame.get_by_role("link", name=packed.second["recipe_id"][:12], exact=True).click()
    frame.get_by_role("heading", level=1, name=packed.second["recipe_id"][:12]).wait_for()
    assert figure(frame.locator("main"), "statistics.packs") == packed.second["packs"]


def test_the_list_shows_what_the_commands_printed(open_page: Open, packed: Packed) -> None:
    page = open_page(LIST)
    for result in (packed.first, packed.second, packed.pairs):
        row = page.locator(f'tr[data-recipe="{result["recipe_id"]}"]')
        for name in ("sequences", "packs", "packing_efficiency", "packing_factor", "gap"):
            assert figure(row, f"statistics.{name}") == result[name]
        assert ("proven optimal" in row.inner_text()) == (result["gap"] == 0)
        assert "dataset committed" in row.inner_text()
    trained = page.locator(f'tr[data-recipe="{packed.second["recipe_id"]}"]')
    assert f"{packed.comparison['speedup']:.4f}" in trained.inner_text()

    page.get_by_label("Dataset (destination)").fill(OTHER)
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**/stowage/?destination=**")
    assert [row.get_attribute("data-recipe") for row in page.locator("tr[data-recipe]").all()] == [
        packed.pairs["recipe_id"]
    ]


def test_every_figure_of_a_recipe_is_that_of_its_json(open_page: Open, site: Site, packed: Packed) -> None:
    page = open_page(recipe_path(packed.second))
    stored = json.loads(site.storage.read(recipe_uri(DESTINATION, packed.second["recipe_id"])))
    figures = page.locator("data[data-of]").all()
    assert len(figures) > 20
    for shown in figures:
        expected = stored
        path = str(shown.get_attribute("data-of"))
        for name in path.split("."):
            expected = expected[int(name) if isinstance(expected, list) else name]
        assert float(str(shown.get_attribute("value"))) == expected, path
    with page.expect_download() as download:
        page.get_by_role("link", name="recipe.json").first.click()
    assert json.loads(download.value.path().read_bytes()) == stored


def test_two_recipes_are_compared(open_page: Open, packed: Packed) -> None:
    page = open_page(LIST)
    for result in (packed.first, packed.second):
        page.get_by_label(f"Compare recipe {result['recipe_id'][:12]}").check()
    page.get_by_role("button", name="Compare the two chosen").click()
    page.get_by_role("heading", level=1, name="Two recipes compared").wait_for()
    assert figure(page, "left.statistics.packs") == packed.first["packs"]
    assert figure(page, "right.statistics.packs") == packed.second["packs"]
    assert "part-00003" in page.get_by_role("region", name="Raw shards that differ").inner_text()


def test_a_wrong_form_is_not_sent_and_says_what_is_wrong(open_page: Open, site: Site) -> None:
    runs = site.api.runs("refresh_packed_dataset")
    page = open_page(REFRESH)
    fill(page, source="", destination="not a place", max_sequences_per_pack="0", seed="1.5")
    for button in ("Refresh", "Dry run"):
        page.get_by_role("button", name=button, exact=True).click()
        for name, expected in (
            ("source", "Fill this in"),
            ("destination", "described above"),
            ("max_sequences_per_pack", "at least 1"),
            ("seed", "whole number"),
        ):
            field = page.locator(f"[name={name}]")
            assert field.get_attribute("aria-invalid") == "true"
            assert f"error-{name}" in str(field.get_attribute("aria-describedby")).split()
            assert expected in page.locator(f"#error-{name}").inner_text()
        assert page.locator("[name=source]").evaluate("field => field === document.activeElement")
        assert "s3://bucket/prefix" in page.locator("#help-destination").inner_text()
        assert "4 values" in page.get_by_role("alert").inner_text()
    assert site.api.runs("refresh_packed_dataset") == runs


def test_what_airflow_refuses_is_shown(open_page: Open, site: Site) -> None:
    runs = site.api.runs("refresh_packed_dataset")
    page = open_page(REFRESH)
    # A form that is older than the DAG lets through what Airflow does not.
    page.locator("[name=max_sequences_per_pack]").evaluate("field => delete field.dataset.maximum")
    fill(page, max_sequences_per_pack="70000")
    page.get_by_role("button", name="Dry run", exact=True).click()
    page.locator("[name=max_sequences_per_pack][aria-invalid=true]").wait_for()
    assert "max_sequences_per_pack" in page.get_by_role("alert").inner_text()
    assert site.api.runs("refresh_packed_dataset") == runs


def test_a_dry_run_predicts_what_a_refresh_then_does(open_page: Open, site: Site, packed: Packed) -> None:
    before = [info.uri for info in site.storage.list("s3://packed")]
    page = open_page(f"{REFRESH}?recipe={packed.second['recipe_id']}")
    destination = "s3://packed/from-the-page"
    fill(page, destination=destination)
    assert page.locator("[name=max_sequence_length]").input_value() == str(SLOTS)
    assert page.locator("[name=max_predictions_per_sequence]").input_value() == str(PREDICTIONS)
    assert page.locator("[name=source]").input_value() == SOURCE
    page.get_by_role("button", name="Dry run", exact=True).click()
    prediction = page.locator("#details table")
    prediction.wait_for(timeout=RUN_MILLISECONDS)
    assert page.get_by_role("status").inner_text() == "Dry run done."
    assert page.locator("#what").inner_text() == f"{SOURCE} to {destination}"
    cells = prediction.locator("tr").all()
    predicted = {row.locator("th").inner_text(): row.locator("data").get_attribute("value") for row in cells}
    assert predicted["Sequences"] == str(packed.second["sequences"])
    assert predicted["Packs"] == str(packed.second["packs"])
    assert [info.uri for info in site.storage.list("s3://packed")] == before

    # What was typed is still there.
    assert page.locator("[name=destination]").input_value() == destination
    page.get_by_role("button", name="Refresh", exact=True).click()
    done = page.get_by_role("status").get_by_text("Refresh done: the packed dataset was refreshed.")
    done.wait_for(timeout=RUN_MILLISECONDS)
    page.locator("#details").get_by_role("link", name="Its recipe").click()
    page.get_by_role("heading", level=1).get_by_text("Recipe").wait_for()
    assert figure(page, "statistics.packs") == packed.second["packs"]
    page.get_by_role("link", name="Recipes").first.click()
    row = page.locator("tr[data-recipe]").first
    assert destination in row.inner_text()
    assert figure(row, "statistics.packs") == packed.second["packs"]
    assert "admin" in row.inner_text()
    dag_run = row.get_by_role("link", name="DAG run").get_attribute("href")
    assert site.api.runs("refresh_packed_dataset")[-1] in str(dag_run).replace("%3A", ":").replace("%2B", "+")


@pytest.mark.usefixtures("packed")
def test_in_airflows_frame_a_reload_follows_the_run_on(open_page: Open) -> None:
    page = open_page("/plugin/packing")
    frame: FrameLocator = page.frame_locator("iframe")
    frame.get_by_role("navigation", name="Packing").get_by_role("link", name="Refresh or dry run").click()
    frame.get_by_role("heading", level=1, name="Refresh a packed dataset").wait_for()
    destination = "s3://packed/from-the-frame"
    frame.locator("[name=destination]").fill(destination)
    frame.locator("[name=max_sequence_length]").fill(str(SLOTS))
    frame.locator("[name=max_predictions_per_sequence]").fill(str(PREDICTIONS))
    # The Enter key predicts; it writes nothing.
    frame.locator("[name=destination]").press("Enter")
    frame.locator("#what").get_by_text(destination).wait_for()
    page.reload()
    frame.locator("#details table").wait_for(timeout=RUN_MILLISECONDS)
    assert frame.locator("#what").inner_text() == f"{SOURCE} to {destination}"
    assert frame.locator("[name=destination]").input_value() == destination
    assert frame.locator("#outdated").is_hidden()
    frame.locator("[name=seed]").fill("7")
    assert frame.locator("#outdated").is_visible()


@pytest.mark.usefixtures("packed")
def test_following_outlasts_a_server_that_is_away(open_page: Open, site: Site) -> None:
    run = site.api.trigger("refresh_packed_dataset", DRY_RUN)
    page = open_page(REFRESH)
    failures: list[Callable[[Any], None]] = [
        lambda route: route.fulfill(status=503, body="{}"),
        lambda route: route.abort(),
    ]
    page.route("**/api/v2/dags/*/dagRuns/**", lambda route: failures.pop()(route) if failures else route.continue_())
    page.goto(f"{REFRESH}?{urlencode({'follow': run})}")
    page.locator("#details table").wait_for(timeout=RUN_MILLISECONDS)
    assert failures == []
    assert page.get_by_role("alert").is_hidden()


def test_a_run_that_fails_says_where_and_why(open_page: Open) -> None:
    page = open_page(REFRESH)
    fill(page, source="s3://raw/nothing-here")
    page.get_by_role("button", name="Refresh", exact=True).click()
    page.get_by_role("status").get_by_text("Refresh failed.").wait_for(timeout=RUN_MILLISECONDS)
    failure = page.locator("#details li")
    assert "List raw shards: s3://raw/nothing-here: expected raw TFRecord shards, found none" in failure.inner_text()
    log = failure.get_by_role("link", name="its log")
    assert str(log.get_attribute("href")).endswith("/tasks/list_shards")


def test_a_mapped_task_that_fails_says_which_it_is_and_all_that_its_error_says(open_page: Open, site: Site) -> None:
    for number in range(2):
        site.storage.write(f"s3://raw/bad/part-{number:05d}", b"no TFRecords at all, but text that somebody put here")
    page = open_page(REFRESH)
    fill(page, source="s3://raw/bad", destination="s3://packed/bad")
    page.get_by_role("button", name="Refresh", exact=True).click()
    page.get_by_role("status").get_by_text("Refresh failed.").wait_for(timeout=RUN_MILLISECONDS)
    failures = page.locator("#details li").all_inner_texts()
    assert len(failures) == 2
    for number, said in enumerate(sorted(failures)):
        shard = f"part-{number:05d}"
        assert said.startswith(
            f"Scan raw shards ({shard}, 0.0 MB): s3://raw/bad/{shard}: record 0 at offset 0: expected"
        )
        assert "repair or remove the shard" in said


@pytest.mark.usefixtures("packed")
def test_what_is_typed_before_a_run_is_known_stays(open_page: Open, site: Site) -> None:
    run = site.api.trigger("refresh_packed_dataset", DRY_RUN)
    page = open_page(REFRESH)
    answers: list[Callable[[Any], None]] = [lambda route: route.fulfill(status=503, body="{}")]
    page.route("**/api/v2/dags/*/dagRuns/**", lambda route: answers[0](route) if answers else route.continue_())
    page.goto(f"{REFRESH}?{urlencode({'follow': run})}")
    page.get_by_role("status").get_by_text("asking again").wait_for()
    fill(page, seed=77)
    answers.clear()
    page.locator("#outdated").wait_for()
    assert page.locator("[name=seed]").input_value() == "77"


@pytest.mark.usefixtures("packed")
def test_a_run_that_somebody_ended_is_not_said_to_be_rejected(open_page: Open, site: Site) -> None:
    run = site.api.trigger("refresh_packed_dataset", {"source": "s3://no-such-bucket/raw"})
    page = open_page(f"{REFRESH}?{urlencode({'follow': run})}")
    page.get_by_role("status").get_by_text("to be tried again: List raw shards").wait_for(timeout=RUN_MILLISECONDS)
    assert page.locator("#outdated").is_visible(), "the rest of its values were the DAG's defaults"
    page.request.patch(f"/api/v2/dags/refresh_packed_dataset/dagRuns/{quote(run)}", data={"state": "success"})
    page.get_by_role("status").get_by_text("ended without a commit").wait_for(timeout=RUN_MILLISECONDS)


def test_a_run_that_waits_for_another_says_so(open_page: Open, site: Site, packed: Packed) -> None:
    page = open_page(f"{REFRESH}?recipe={packed.second['recipe_id']}")
    other = site.api.trigger("refresh_packed_dataset", DRY_RUN)
    page.get_by_role("button", name="Dry run", exact=True).click()
    page.get_by_role("status").get_by_text("another run is first").wait_for(timeout=RUN_MILLISECONDS)
    ahead = str(page.get_by_role("link", name="The run before it").get_attribute("href"))
    assert other in ahead.replace("%3A", ":").replace("%2B", "+")
    page.get_by_role("status").get_by_text("Dry run done.").wait_for(timeout=RUN_MILLISECONDS)


def test_who_may_only_read_cannot_start_anything(open_page: Open, site: Site, packed: Packed) -> None:
    runs = site.api.runs("refresh_packed_dataset")
    page = open_page(f"{REFRESH}?recipe={packed.second['recipe_id']}", READER)
    for name in ("Refresh", "Dry run"):
        assert page.get_by_role("button", name=name, exact=True).is_disabled()
    assert "permission to trigger" in page.locator("#refused").inner_text()
    # Airflow decides, whatever the page allows.
    page.locator("form button").evaluate_all("buttons => buttons.forEach(button => { button.disabled = false; })")
    page.get_by_role("button", name="Refresh", exact=True).click()
    page.get_by_role("alert").get_by_text("you may not trigger").wait_for()
    assert site.api.runs("refresh_packed_dataset") == runs


def test_nobody_sees_anything_without_a_login(site: Site, packed: Packed) -> None:
    import requests

    own = recipe_path(packed.second)
    paths = (LIST, REFRESH, own, f"{own}/recipe.json", compare_path(packed), "/stowage/docs", "/stowage/openapi.json")
    for path in (*paths, "/stowage/redoc", "/stowage/static/0/page.css", "/stowage/no/such/path"):
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = requests.request(method, f"{site.url}{path}", allow_redirects=False, timeout=30)
            assert answer.status_code == 401, (method, path, answer.status_code)
            assert packed.second["recipe_id"][:12] not in answer.text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_pages_are_accessible_and_fit(open_page: Open, packed: Packed, axe: str, scheme: str, width: int) -> None:
    unknown = "/stowage/recipes/unknown"
    for path in (LIST, recipe_path(packed.second), compare_path(packed), REFRESH, unknown):
        page = open_page(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
        found = page.evaluate(f"async () => {{ {axe}; return await axe.run(); }}")
        assert len(found["passes"]) > 10
        serious = [rule for rule in found["violations"] if rule["impact"] in {"serious", "critical"}]
        assert serious == [], json.dumps(serious, indent=1)[:4000]
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_the_keyboard_reaches_everything(open_page: Open, packed: Packed) -> None:
    page = open_page(LIST)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    box = page.get_by_label(f"Compare recipe {packed.first['recipe_id'][:12]}")
    for _ in range(60):
        page.keyboard.press("Tab")
        outlined = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outlined != "none", page.evaluate("document.activeElement.outerHTML")
        if box.evaluate("box => box === document.activeElement"):
            break
    else:
        pytest.fail("Tab never reached the recipe's box")
    page.keyboard.press("Space")
    assert box.is_checked()


def test_the_theme_is_airflows(open_page: Open) -> None:
    page = open_page(LIST, color_scheme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_an_anonymous_browser_is_led_to_the_login(browser: Any, site: Site) -> None:
    context = browser.new_context(base_url=site.url)
    page = context.new_page()
    page.goto("/plugin/packing")
    page.wait_for_url(re.compile("/auth/login"))
    context.close()
    assert USER in site.passwords
