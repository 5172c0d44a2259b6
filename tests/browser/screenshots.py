"""`make screenshots`: the README's pictures, of what `make demo` left and of a second recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from demo.__main__ import Layout, start, supervised
from demo.display import Display
from demo.flow import REFRESH, follow
from demo.stack import DESTINATION, REPOSITORY
from tests.browser.chromium import launched, log_in

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page

PICTURES = REPOSITORY / "docs" / "images"
PAIRS = {"destination": f"{DESTINATION}-in-pairs", "max_sequences_per_pack": 2}
SECONDS = 1000.0


def main() -> None:
    """Start the demo's services, make the second recipe, and take the pictures."""
    layout = Layout(REPOSITORY / ".demo")
    PICTURES.mkdir(exist_ok=True)
    with supervised(layout) as supervisor, Display() as display:
        stack = start(layout, supervisor, display)
        api = stack.airflow.api
        follow(api, supervisor, display, REFRESH, api.trigger(REFRESH, PAIRS))
        with display.step("pictures"), launched() as browser:
            cookies = log_in(browser, stack.airflow.url, stack.airflow.user, stack.airflow.password)
            take_pictures(browser, stack.airflow.url, cookies)


def take_pictures(browser: Browser, url: str, cookies: object) -> None:
    """The page inside of Airflow, by its own links, in both schemes; and the list on a telephone."""
    page = browser.new_page(base_url=url, storage_state=cookies, viewport={"width": 1280, "height": 800})
    page.goto("/plugin/packing")
    frame = page.frame_locator("iframe")
    frame.locator("tr[data-recipe]").nth(1).wait_for()
    save(page, "recipes")
    frame.locator(f'tr[data-recipe]:has-text("{DESTINATION}")').last.get_by_role("link").first.click()
    frame.get_by_role("heading", name="Certificate").wait_for()
    save(page, "recipe")
    dry_run(frame)
    save(page, "dry-run")

    page = browser.new_page(
        base_url=url, storage_state=cookies, viewport={"width": 1280, "height": 800}, color_scheme="dark"
    )
    page.goto("/stowage/")
    for box in page.get_by_role("checkbox").all()[:2]:
        box.check()
    page.get_by_role("button", name="Compare the two chosen").click()
    page.get_by_role("heading", name="Figures").wait_for()
    save(page, "compare-dark")

    page = browser.new_page(base_url=url, storage_state=cookies, viewport={"width": 360, "height": 720})
    page.goto("/stowage/")
    save(page, "telephone")


def dry_run(frame: FrameLocator) -> None:
    """Predict a refresh from the recipe's page, and wait for the prediction."""
    frame.get_by_role("navigation", name="This recipe").get_by_role("link", name="Refresh or dry run").click()
    frame.get_by_role("button", name="Dry run", exact=True).click()
    frame.locator("#details table").wait_for(timeout=120 * SECONDS)
    frame.get_by_role("heading", level=1).scroll_into_view_if_needed()


def save(page: Page, name: str) -> Path:
    """What is visible now, as docs/images/NAME.png."""
    file = PICTURES / f"{name}.png"
    page.screenshot(path=file)
    return file


if __name__ == "__main__":
    main()
