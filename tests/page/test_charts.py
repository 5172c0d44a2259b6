from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.in_memory import MemoryTracker
from stowage_airflow.page.charts import WIDTH, Bar, bar_chart, highest
from tests.page.builders import small_recipe, track
from tests.page.opened import Page, Parsed

VALUES = st.integers(0, 10**9)


def rectangles(drawn: Parsed, series: str) -> list[tuple[float, float, float, float]]:
    """(left, top, width, height) of each bar."""
    found = [e.attributes for e in drawn.all("rect") if e.attributes["class"] == series]
    return [(float(e["x"]), float(e["y"]), float(e["width"]), float(e["height"])) for e in found]


def labels(drawn: Parsed, *, minor: bool = True) -> list[str]:
    return [e.text for e in drawn.all("text") if minor or "class" not in e.attributes]


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=64))
def test_both_series_are_seen_whichever_is_higher(values: list[tuple[int, int]]) -> None:
    drawn = Parsed(bar_chart([Bar("1", *pair) for pair in values], "title"))
    pairs = list(zip(rectangles(drawn, "first"), rectangles(drawn, "second"), strict=True))
    assert len(pairs) == len(values)
    for (left, _, width, _), (inner, _, narrow, _) in pairs:
        assert inner - left > 0.2 * width
        assert left + width - (inner + narrow) > 0.2 * width
        assert narrow > 0.3 * width
    order = [e.attributes["class"] for e in drawn.all("rect")]
    assert order == ["first", "second"] * len(values), "the narrow bar is drawn over the wide one"


@given(st.lists(VALUES, min_size=1, max_size=64), st.integers(1, 12))
def test_bars_are_as_high_as_their_values_and_neither_wide_nor_outside(values: list[int], wanted: int) -> None:
    bars = [Bar(str(value), value) for value in values]
    drawn = Parsed(bar_chart(bars, "title", labels=wanted))
    lines = [float(e.attributes["y1"]) for e in drawn.all("line")]
    assert highest(bars) == max(values)
    for value, (left, top, width, height) in zip(values, rectangles(drawn, "first"), strict=True):
        assert height == pytest.approx((lines[1] - lines[0]) * value / (max(values) or 1), abs=0.01)
        assert top + height == pytest.approx(lines[1], abs=0.02)
        assert left >= 0
        assert left + width <= WIDTH
        assert width < WIDTH / 8
    assert len(labels(drawn)) <= wanted + 1
    assert labels(drawn)[-1] == str(values[-1])
    assert labels(drawn, minor=False)[-1] == str(values[-1])


def test_few_labels_are_left_where_they_are_large() -> None:
    bars = [Bar(f"{2**n}-{2 ** (n + 1) - 1}", n) for n in range(10)]
    drawn = Parsed(bar_chart(bars, "title", labels=10))
    assert len(labels(drawn)) == 10
    assert len(labels(drawn, minor=False)) == 4


def test_every_chart_says_what_its_axes_are_and_two_series_have_keys(page: Page, tracker: MemoryTracker) -> None:
    recipes = [small_recipe(seed) for seed in range(2)]
    for recipe in recipes:
        track(tracker, recipe)
    own = captions(page.get(f"/recipes/{recipes[0].recipe_id}"))
    assert own == [
        ("Sequences, up to 1", "Length in tokens"),
        ("Packs, up to 2", "Sequences a pack"),
        ("Padding tokens, up to 27", "Empty slots of a pack"),
    ]
    compared = page.get(f"/compare?recipe={recipes[0].recipe_id}&recipe={recipes[1].recipe_id}")
    assert captions(compared) == [("Sequences, up to 1 older, wide newer, narrow", "Length in tokens")]


def captions(parsed: Parsed) -> list[tuple[Any, ...]]:
    """What stands above and below each chart."""
    above = [" ".join(e.text.split()) for e in parsed.all("figcaption")]
    below = [e.text for e in parsed.all("p") if e.attributes.get("class") == "across"]
    return list(zip(above, below, strict=True))
