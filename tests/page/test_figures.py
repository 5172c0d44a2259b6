"""Every number on the pages is that of the recipe's JSON, or follows from it by arithmetic that stands here."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from packing.in_memory import MemoryTracker
from packing.ports import Metric
from packing.types import Parameters, Recipe
from stowage_airflow.page.anatomy import bin_lengths
from stowage_airflow.page.words import FIGURES
from tests.page.builders import manifest_of, recipe_of, track
from tests.page.opened import Parsed, open_page

LENGTH = 24
SHARDS = st.lists(st.lists(st.integers(1, LENGTH), min_size=1, max_size=40), min_size=1, max_size=4)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    parameters = Parameters(max_sequence_length=LENGTH, max_sequences_per_pack=draw(st.integers(1, 5)))
    return recipe_of(draw(SHARDS), parameters, rejected=draw(st.integers(0, 2)), seed=draw(st.integers(0, 10**6)))


def look_up(document: Any, path: str) -> float:
    for step in path.split("."):
        document = document[int(step)] if isinstance(document, list) else document[step]
    return float(document)


def check_places(parsed: Parsed, document: Any) -> set[str]:
    """Each figure that names its place in the JSON is the value there; returns the places."""
    for place, value in parsed.figures():
        assert value == look_up(document, place), place
    return {place for place, _ in parsed.figures()}


def check_no_other_numbers(parsed: Parsed) -> None:
    """Digits stand in figures, or in names, times and words that are tested on their own."""
    apart = {"data", "code", "time", "title", "svg", "datalist", "a"}
    for text, around in parsed.texts:
        tags = {element.tag for element in around}
        words = any("word" in element.attributes.get("class", "") for element in around)
        if not tags & apart and not words:
            assert not re.search(r"\d", text.replace("SHA-256", "")), text


@settings(max_examples=25)
@given(recipes())
def test_a_recipes_page_shows_the_figures_of_its_json(recipe: Recipe) -> None:
    tracker = MemoryTracker()
    run = track(tracker, recipe)
    document = json.loads(run.artifacts["recipe/recipe.json"])
    parsed = open_page(tracker).get(f"/recipes/{recipe.recipe_id}")
    places = check_places(parsed, document)
    numbers = {name for name, value in document["statistics"].items() if type(value) in {int, float}}
    assert {f"statistics.{name}" for name in numbers} <= places
    assert {f"parameters.{name}" for name, value in document["parameters"].items() if type(value) is int} <= places
    check_no_other_numbers(parsed)
    check_tables(parsed, document)
    totals = [[row.packs, row.sequences, row.tokens, row.bytes] for row in manifest_of(recipe).shards]
    assert parsed.rows("packed-shards") == totals


def check_tables(parsed: Parsed, document: Any) -> None:
    slots = document["parameters"]["max_sequence_length"]
    packs = [tuple(s["lengths"]) for s in document["strategies"] for _ in range(s["count"])]
    assert parsed.rows("lengths") == [
        [length, length, count] for length, count in enumerate(document["histogram"]["counts"], start=1)
    ]
    sizes = Counter(len(pack) for pack in packs)
    assert parsed.rows("composition") == [
        [size, sizes[size], sizes[size] / len(packs), sum(slots - sum(pack) for pack in packs if len(pack) == size)]
        for size in sorted(sizes)
    ]
    padding = parsed.rows("padding")
    for least, most, count, tokens in padding:
        among = [slots - sum(pack) for pack in packs if least <= slots - sum(pack) <= most]
        assert [len(among), sum(among)] == [count, tokens]
    assert sum(row[2] for row in padding) == len(packs)
    used = Counter(packs)
    names = [row[0] for row in parsed.cells("strategies", columns=1)]
    top = [tuple(int(length) for length in name.split(" + ")) for name in names]
    assert parsed.rows("strategies") == [
        [len(pack), used[pack], used[pack] / len(packs), slots - sum(pack)] for pack in top
    ]
    assert [used[pack] for pack in top] == [count for _, count in used.most_common(20)]
    assert [row[1:] for row in parsed.rows("partitions")] == [
        [p["sequences"], sum(s["count"] for s in p["strategies"])] for p in document["partitions"]
    ]


@settings(max_examples=15)
@given(recipes(), st.integers(0, 4))
def test_the_list_shows_the_figures_of_the_json(recipe: Recipe, reused: int) -> None:
    tracker = MemoryTracker()
    run = track(tracker, recipe)
    run.log_metrics([Metric("partitions_reused", float(reused), 0, 0)])
    parsed = open_page(tracker).get("/")
    places = check_places(parsed, json.loads(run.artifacts["recipe/recipe.json"]))
    expected = {"sequences", "packs", "packing_efficiency", "packing_factor", "gap"}
    assert places == {f"statistics.{name}" for name in expected}
    check_no_other_numbers(parsed)


@settings(max_examples=15)
@given(recipes(), recipes())
def test_two_recipes_are_compared_by_the_figures_of_their_json(left: Recipe, right: Recipe) -> None:
    tracker = MemoryTracker()
    runs = [track(tracker, recipe) for recipe in (left, right)]
    for number, run in enumerate(runs):
        run.started = 1_000 * (number + 1)
    older, newer = (json.loads(run.artifacts["recipe/recipe.json"]) for run in runs)
    if left.recipe_id == right.recipe_id:
        return
    parsed = open_page(tracker).get(f"/compare?recipe={right.recipe_id}&recipe={left.recipe_id}")
    check_places(parsed, {"left": older, "right": newer})
    check_no_other_numbers(parsed)
    numbers = [name for name, _, _ in FIGURES]
    assert sorted(numbers) == sorted(n for n, value in older["statistics"].items() if type(value) in {int, float})
    figures = [
        [older["statistics"][name], newer["statistics"][name], newer["statistics"][name] - older["statistics"][name]]
        for name in numbers
    ]
    assert parsed.rows("figures") == [row if row[2] else row[:2] for row in figures]
    counts = zip(older["histogram"]["counts"], newer["histogram"]["counts"], strict=True)
    assert [row[2:] for row in parsed.rows("lengths")] == [list(pair) for pair in counts]


@given(st.integers(1, 500))
@example(65)
def test_bins_hold_every_length_once(longest: int) -> None:
    counts = [length * length % 11 for length in range(longest)]
    bins = bin_lengths(counts)
    assert len(bins) <= 64
    assert [length for one in bins for length in range(one.first, one.last + 1)] == list(range(1, len(counts) + 1))
    assert [one.sequences for one in bins] == [sum(counts[one.first - 1 : one.last]) for one in bins]


def test_reused_partitions_are_counted_against_all(tracker: MemoryTracker) -> None:
    recipe = recipe_of([[5, 6], [7], [8]], Parameters(max_sequence_length=LENGTH))
    track(tracker, recipe).log_metrics([Metric("partitions_reused", 2.0, 0, 0)])
    texts = [paragraph.text for paragraph in open_page(tracker).get(f"/recipes/{recipe.recipe_id}").all("p")]
    assert "2 of 3 partitions were in the store already and were reused; 1 were to be written." in texts


def test_shards_that_were_added_removed_or_changed_are_named(tracker: MemoryTracker) -> None:
    parameters = Parameters(max_sequence_length=LENGTH)
    older = recipe_of([[5, 6], [7], [8]], parameters)
    newer = recipe_of([[5, 6], [9, 9]], parameters)
    for number, recipe in enumerate((older, newer)):
        track(tracker, recipe).started = number
    for left, right, gone in ((older, newer, "removed"), (newer, older, "removed")):
        parsed = open_page(tracker).get(f"/compare?recipe={left.recipe_id}&recipe={right.recipe_id}")
        assert parsed.cells("shards", columns=2) == [["part-00001.tfrecord", "changed"], ["part-00002.tfrecord", gone]]
    for number, run in enumerate(reversed(tracker.runs.values())):
        run.started = number
    parsed = open_page(tracker).get(f"/compare?recipe={older.recipe_id}&recipe={newer.recipe_id}")
    assert parsed.cells("shards", columns=2)[1] == ["part-00002.tfrecord", "added"]


def test_long_lists_end_with_where_the_rest_is(tracker: MemoryTracker) -> None:
    recipe = recipe_of([[5]] * 201, Parameters(max_sequence_length=LENGTH))
    track(tracker, recipe)
    parsed = open_page(tracker).get(f"/recipes/{recipe.recipe_id}")
    assert len(parsed.rows("raw-shards")) == 200
    assert "The first 200 of 201; recipe.json has all of them." in "".join(text for text, _ in parsed.texts)
