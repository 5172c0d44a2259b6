from __future__ import annotations

import re

from packing.in_memory import MemoryTracker
from stowage_airflow.page.render import STATIC, digest_of
from tests.page.builders import FROM_AIRFLOW, small_recipe, track
from tests.page.opened import Page


def test_every_answer_has_the_headers_that_keep_it_to_itself(page: Page, tracker: MemoryTracker) -> None:
    recipe = small_recipe()
    track(tracker, recipe)
    own = f"/recipes/{recipe.recipe_id}"
    for path in ("/", own, f"{own}/recipe.json", "/refresh", "/nowhere", "/compare"):
        headers = page.client.get(f"/stowage{path}").headers
        assert headers["cache-control"] == "no-store", path
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "*" not in policy


def test_pages_load_nothing_from_elsewhere_and_have_no_inline_code(page: Page, tracker: MemoryTracker) -> None:
    recipes = [small_recipe(seed) for seed in range(2)]
    for recipe in recipes:
        track(tracker, recipe, tags=FROM_AIRFLOW)
    both = "&".join(f"recipe={recipe.recipe_id}" for recipe in recipes)
    for path in ("/", f"/recipes/{recipes[0].recipe_id}", f"/compare?{both}", "/refresh"):
        parsed = page.get(path)
        loaded = [
            e.attributes.get("src") or e.attributes.get("href", "") for e in parsed.all("script") + parsed.all("link")
        ]
        assert len(loaded) >= 3
        for address in loaded:
            assert re.fullmatch(r"/stowage/static/[0-9a-f]{16}/[a-z]+\.(css|js)", address)
            answer = page.client.get(address)
            assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert not [
            e for e in parsed.elements if any(name == "style" or name.startswith("on") for name in e.attributes)
        ]
        assert not [text for text, around in parsed.texts if around and around[-1].tag in {"script", "style"}]


def test_static_files_are_named_by_their_content() -> None:
    assert len({digest_of(name) for name in STATIC}) == len(STATIC) == 9
    for name, content in STATIC.items():
        assert b"http://" not in content, name
        assert b"https://" not in content, name
