"""The page's looks on screens of several widths, without Airflow around it: in its frame or alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from demo.processes import free_port
from packing.in_memory import MemoryTracker
from packing.types import Parameters, Recipe
from tests.page import conftest as _plugins_on_the_path  # noqa: F401
from tests.page.builders import FROM_AIRFLOW, recipe_of, small_recipe, track, track_training
from tests.page.opened import open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Frame, Page

pytestmark = pytest.mark.exhaustive

ALONE, FRAME = (320, 768, 1280, 1920), 248
LONG = "x" * 200
PARAMETERS = Parameters(max_sequence_length=512)


@dataclass(frozen=True)
class Served:
    """A site whose records have the longest texts, and its recipes, the newest first."""

    url: str
    recipes: tuple[Recipe, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        first, second = self.recipes[:2]
        both = f"/compare?recipe={first.recipe_id}&recipe={second.recipe_id}"
        return ("/", f"/recipes/{first.recipe_id}", both, "/recipes/unknown")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    import uvicorn
    from fastapi.responses import HTMLResponse

    tracker = MemoryTracker()
    wide = [recipe_of([[5, 6, 300, 512], [7] * count], PARAMETERS, rejected=1, seed=count) for count in (9, 8)]
    recipes = (*wide, *(small_recipe(seed) for seed in range(8)))
    for number, recipe in enumerate(recipes):
        tags = {**FROM_AIRFLOW, "stowage.triggered_by": LONG} if number < 2 else FROM_AIRFLOW
        run = track(tracker, recipe, destination=f"s3://packed/{LONG}" if number < 2 else "s3://packed/wiki", tags=tags)
        run.started = 1_796_000_000_000 - number
    for number in range(10):
        track_training(tracker, recipes[0].recipe_id, speedup=1 + number / 10)
    app: Any = open_page(tracker).client.app
    sandbox = "allow-scripts allow-same-origin allow-forms allow-downloads"

    def framed(path: str) -> HTMLResponse:
        return HTMLResponse(
            f'<!doctype html><title>Frame</title><iframe sandbox="{sandbox}" src="/stowage{path}" title="Packing" '
            f'style="width: {FRAME}px; height: 700px; border: 0"></iframe>'
        )

    app.get("/framed")(framed)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port := free_port(), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.1)
            assert thread.is_alive()
        yield Served(f"http://127.0.0.1:{port}", recipes)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def show(browser: Browser, served: Served) -> Iterator[Callable[..., Page]]:
    """Opens a page of this width."""
    contexts = []

    def open_at(path: str, width: int, **options: Any) -> Page:
        context = browser.new_context(base_url=served.url, viewport={"width": width, "height": 700}, **options)
        contexts.append(context)
        page = context.new_page()
        page.goto(path)
        return page

    yield open_at
    for context in contexts:
        context.close()


def in_frame(show: Callable[..., Page], path: str) -> Frame:
    """The page as a telephone of 320 pixels shows it in Airflow."""
    frame = show(f"/framed?path={path.replace('&', '%26')}", 320).frames[1]
    frame.wait_for_load_state()
    return frame


SPILLS = """() => [...document.querySelectorAll('.cards th, .cards td, .stacked th, .stacked td, form')]
  .filter((cell) => cell.scrollWidth > cell.clientWidth + 1 && cell.offsetParent && !cell.closest('thead'))
  .map((cell) => cell.textContent)"""

WIDE = """(width) => [...document.querySelectorAll('body *')]
  .filter((one) => one.getBoundingClientRect().right > width && !one.closest('.scroll *'))
  .map((one) => one.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize("width", [*ALONE, FRAME])
def test_nothing_is_wider_than_the_screen(show: Callable[..., Page], served: Served, width: int) -> None:
    for path in served.paths:
        page = in_frame(show, path) if width == FRAME else show(f"/stowage{path}", width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, page.evaluate(WIDE, width))
        assert page.evaluate(SPILLS) == [], path
        if path == "/" or "compare" in path:
            scrolling = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth)"
            assert page.evaluate(f"{scrolling}.map((one) => one.getAttribute('aria-labelledby'))") == [], path


@pytest.mark.parametrize("width", [*ALONE, FRAME])
def test_labels_of_charts_are_large_enough_and_apart(show: Callable[..., Page], served: Served, width: int) -> None:
    for path in served.paths[1:3]:
        page = in_frame(show, path) if width == FRAME else show(f"/stowage{path}", width)
        boxes = page.evaluate(
            """() => [...document.querySelectorAll('.chart')].map((chart) => [...chart.querySelectorAll('text')]
              .map((text) => text.getBoundingClientRect()).filter((box) => box.width)
              .map((box) => [box.left, box.right, box.height]))"""
        )
        assert boxes
        for chart in boxes:
            assert all(height >= 10 for _, _, height in chart), path
            assert all(right < left for (_, right, _), (left, _, _) in pairwise(chart)), path


def test_only_what_scrolls_is_a_stop_of_the_tab_key(show: Callable[..., Page], served: Served) -> None:
    state = """() => [...document.querySelectorAll('.scroll')]
      .map((one) => [one.scrollWidth > one.clientWidth, one.hasAttribute('tabindex')])"""
    for width in (320, 1280):
        page = show(f"/stowage{served.paths[1]}", width)
        page.wait_for_function("document.querySelector('.scroll:not([tabindex])')")
        found = page.evaluate(state)
        assert all(scrolls == stop for scrolls, stop in found), found
        assert any(scrolls for scrolls, _ in found) == (width == 320)
    page.set_viewport_size({"width": 320, "height": 700})
    page.wait_for_function("document.querySelector('.scroll[tabindex]')")
    plain = show(f"/stowage{served.paths[1]}", 320, java_script_enabled=False)
    assert plain.locator(".scroll[tabindex='0']").count() == plain.locator(".scroll").count()


@pytest.mark.parametrize("width", [320, 1280])
def test_comparing_is_in_view_and_hides_no_focus(show: Callable[..., Page], width: int) -> None:
    page = show("/stowage/", width)
    button = page.get_by_role("button", name="Compare the two chosen")
    overlap = """() => { const focus = document.activeElement, bar = document.querySelector('.bar');
      return bar.contains(focus) || focus.getBoundingClientRect().bottom <= bar.getBoundingClientRect().top; }"""
    for _ in range(50):
        page.keyboard.press("Tab")
        box = button.bounding_box()
        assert box is not None
        assert 0 <= box["y"] <= 700 - box["height"]
        assert page.evaluate(overlap), page.evaluate("document.activeElement.outerHTML")


def test_a_ticked_box_shows_whole_digests(show: Callable[..., Page], served: Served) -> None:
    page = show(f"/stowage{served.paths[1]}", 320)
    digest = page.locator(".digest", has_text=served.recipes[0].shards[0].sha256).first
    cut = "code => code.scrollWidth > code.clientWidth"
    assert digest.evaluate(cut)
    page.get_by_label("Whole SHA-256").first.check()
    assert not digest.evaluate(cut)


def test_the_way_back_to_airflow_is_shown_outside_of_its_frame(show: Callable[..., Page], served: Served) -> None:
    for path in served.paths:
        link = show(f"/stowage{path}", 320).locator("header").get_by_role("link", name="Airflow")
        assert (link.get_attribute("href"), link.get_attribute("target")) == ("/", "_top")
        assert link.is_visible()
    assert not in_frame(show, "/").locator("header .home").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_long_texts_leave_pages_accessible(
    show: Callable[..., Page], served: Served, axe: str, scheme: str, width: int
) -> None:
    for path in served.paths:
        page = show(f"/stowage{path}", width, color_scheme=scheme)
        found = page.evaluate(f"async () => {{ {axe}; return await axe.run(); }}")
        assert len(found["passes"]) > 10
        assert found["violations"] == [], json.dumps(found["violations"], indent=1)[:4000]
