"""A browser, Debian's Chromium, that is logged in to an Airflow with some packed datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo.airflow import USER
from tests.browser.chromium import launched, log_in
from tests.browser.site import Site, start_site
from tests.builders import random_sizes, raw_shard

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from demo.processes import Supervisor
    from demo.servers import MlflowServer, ObjectStore

SLOTS, PREDICTIONS = 128, 20
SOURCE, DESTINATION, OTHER = "s3://raw/books", "s3://packed/books", "s3://packed/books-in-pairs"
SHAPE = ("--max-sequence-length", str(SLOTS), "--max-predictions-per-sequence", str(PREDICTIONS))
SMALL_PARTITIONS = ("--partition-bytes", "50000")


@dataclass(frozen=True)
class Packed:
    """What the site has: two versions of one dataset and one of another; results of `packing run --json`."""

    first: dict[str, Any]
    second: dict[str, Any]
    pairs: dict[str, Any]
    comparison: dict[str, Any]


@pytest.fixture(scope="session")
def site(
    supervisor: Supervisor,
    object_store: ObjectStore,
    mlflow_server: MlflowServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    settings = {"STOWAGE_SOURCE": SOURCE, "STOWAGE_DESTINATION": DESTINATION}
    return start_site(supervisor, object_store, mlflow_server, tmp_path_factory.mktemp("site"), settings)


@pytest.fixture(scope="session")
def packed(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    def upload(number: int) -> None:
        sizes = random_sizes(120, seed=number, longest=SLOTS, predictions=PREDICTIONS)
        content = raw_shard(sizes, seed=number, slots=SLOTS, predictions=PREDICTIONS)
        site.storage.write(f"{SOURCE}/part-{number:05d}", content)

    for number in range(3):
        upload(number)
    first = site.run("packing", "run", SOURCE, DESTINATION, *SHAPE, *SMALL_PARTITIONS)
    upload(3)
    second = site.run("packing", "run", SOURCE, DESTINATION, *SHAPE, *SMALL_PARTITIONS)
    pairs = site.run("packing", "run", SOURCE, OTHER, *SHAPE, "--max-sequences-per-pack", "2")
    model = ("--model", "tiny", "--vocab-size", "1000", "--steps", "4", "--sequences-per-step", "8")
    folder = str(tmp_path_factory.mktemp("comparison"))
    comparison = site.run(
        "training", "compare", "--data", second["manifest"], "--raw", SOURCE, "--cache-dir", folder, *model
    )
    return Packed(first, second, pairs, comparison)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with launched() as running:
        yield running


@pytest.fixture(scope="session")
def logins(browser: Browser, site: Site) -> dict[str, Any]:
    """The cookies of each user."""
    return {name: log_in(browser, site.url, name, password) for name, password in site.passwords.items()}


@pytest.fixture
def open_page(browser: Browser, site: Site, logins: dict[str, Any]) -> Iterator[Callable[..., Page]]:
    """Opens a page of the site as a user, by default the admin.

    In the end, none of the pages may have asked another server for anything, or have had an error in its scripts.
    """
    requested: list[str] = []
    errors: list[str] = []
    with ExitStack() as contexts:

        def open_as(path: str, user: str = USER, **options: Any) -> Page:
            context: BrowserContext = browser.new_context(base_url=site.url, storage_state=logins[user], **options)
            contexts.callback(context.close)
            page = context.new_page()
            page.on("request", lambda request: requested.append(request.url))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on(
                "console", lambda message: errors.append(message.text) if "Security Policy" in message.text else None
            )
            page.goto(path)
            return page

        yield open_as
    assert requested, "expected the test to open a page"
    own = tuple(f"{scheme}{site.url}/" for scheme in ("", "blob:"))
    assert [url for url in requested if not url.startswith((*own, "data:"))] == []
    assert errors == []


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which judges a page's accessibility from within it."""
    script = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
    assert script.is_file(), f"{script}: expected axe-core, found none; run make servers"
    return script.read_text(encoding="utf-8")
