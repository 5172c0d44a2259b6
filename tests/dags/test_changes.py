"""What counts as a change between two recipes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.in_memory import MemoryStorage
from packing.parallel import serial
from packing.pipeline import refresh
from packing.types import ListedShard, Parameters, Recipe
from tests.builders import random_sizes, raw_shard, stages_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))  # as Airflow does

from stowage_airflow.changes import PACK_SHAPE, changes_between, describe, exceeding, shard_changes

PERCENT = st.floats(0, 200)


@cache
def solved() -> Recipe:
    storage = MemoryStorage()
    storage.write("/raw/part-0", raw_shard(random_sizes(40, seed=0), seed=0))
    parameters = Parameters(max_sequence_length=64, max_predictions_per_sequence=10)
    return refresh(storage, stages_of(serial(storage)), "/raw", "/out", parameters).recipe


def recipe_of(contents: dict[str, tuple[str, int]], packs: int = 100, efficiency: float = 0.9) -> Recipe:
    """With raw shards of these contents and so many sequences, by name; nothing is true but what is compared."""
    shards = tuple(ListedShard(name, f"/raw/{name}", 1, "", *content) for name, content in contents.items())
    return replace(solved(), shards=shards, statistics={"packs": packs, "packing_efficiency": efficiency})


CONTENT = st.tuples(st.sampled_from("abcdef"), st.integers(1, 10**8))
RECIPES = st.builds(
    recipe_of,
    st.dictionaries(st.sampled_from("uvwxyz"), CONTENT, min_size=1),
    st.integers(1, 10**9),
    st.floats(0.1, 1),
)


@given(RECIPES, PERCENT)
def test_the_same_recipe_is_no_change(recipe: Recipe, percent: float) -> None:
    assert exceeding(changes_between(recipe, recipe), percent) == ()
    assert not any(shard_changes(recipe, recipe).values())


@given(RECIPES, RECIPES, PERCENT, PERCENT)
def test_a_higher_threshold_asks_about_less(current: Recipe, new: Recipe, one: float, other: float) -> None:
    changes = changes_between(current, new)
    assert all(change.percent is not None and change.percent >= 0 for change in changes)
    few, many = (set(exceeding(changes, percent)) for percent in (max(one, other), min(one, other)))
    assert few <= many <= set(changes)
    assert describe(changes, one).count("**") == 2 * len(exceeding(changes, one))


def percents(current: Recipe, new: Recipe) -> dict[str, float | None]:
    return {change.name: change.percent for change in changes_between(current, new)}


@pytest.mark.parametrize(
    ("new", "kept", "added"),
    [
        ({"x": ("a", 60), "y": ("b", 40)}, 0, 0),
        ({"y": ("a", 60), "x": ("b", 40)}, 0, 0),  # renamed
        ({"x": ("c", 60), "y": ("d", 40)}, 100, 100),  # all replaced, the totals are what they were
        ({"x": ("a", 60), "z": ("c", 40)}, 40, 40),  # one gone, and as much added
        ({"x": ("a", 60)}, 40, 0),
        ({"x": ("a", 60), "y": ("b", 40), "z": ("b", 40)}, 0, 40),
        ({"x": ("a", 50), "y": ("b", 40)}, 10, 0),  # other parameters reject more
    ],
)
def test_sequences_count_by_the_content_of_their_raw_shard(
    new: dict[str, tuple[str, int]], kept: float, added: float
) -> None:
    found = percents(recipe_of({"x": ("a", 60), "y": ("b", 40)}), recipe_of(new))
    assert (found["sequences kept"], found["sequences added"]) == (kept, added)


@given(RECIPES, st.integers(1, 10**9), st.floats(0.1, 1))
def test_efficiency_and_size_count_by_themselves(current: Recipe, packs: int, efficiency: float) -> None:
    before = current.statistics
    new = replace(current, statistics={"packs": packs, "packing_efficiency": efficiency})
    found = percents(current, new)
    assert found["size in slots"] == pytest.approx(abs(packs / before["packs"] - 1) * 100)
    assert found["packing efficiency"] == pytest.approx(abs(efficiency / before["packing_efficiency"] - 1) * 100)
    assert (found["sequences kept"], found["sequences added"]) == (0, 0)


@given(RECIPES, st.integers(1, 65536))
def test_size_counts_slots_and_not_packs(current: Recipe, length: int) -> None:
    new = replace(current, parameters=replace(current.parameters, max_sequence_length=length))
    assert percents(current, new)["size in slots"] == pytest.approx(abs(length / 64 - 1) * 100)


@pytest.mark.parametrize("name", PACK_SHAPE)
def test_another_shape_of_packs_exceeds_any_threshold(name: str) -> None:
    current = recipe_of({"x": ("a", 60)})
    new = replace(current, parameters=replace(current.parameters, **{name: 9}))
    assert name in [change.name for change in exceeding(changes_between(current, new), 1e300)]
    assert f"| {name} | {getattr(current.parameters, name)} | 9 | **another value** |" in describe(
        changes_between(current, new), 1e300
    )


def test_other_parameters_are_said_and_never_asked_about() -> None:
    current = recipe_of({"x": ("a", 60)})
    new = replace(current, parameters=replace(current.parameters, seed=7, solver="nnls"))
    changes = changes_between(current, new)
    assert exceeding(changes, 0) == ()
    table = describe(changes, 0)
    assert "| seed | 0 | 7 | another value |" in table
    assert "| solver | optimal | nnls | another value |" in table


@pytest.mark.parametrize(
    ("gone", "words"),
    [(1, "0.000000638 %"), (31_345_366, "20 %"), (156_726_829 // 3, "33.3 %"), (0, "0 %")],
)
def test_a_small_share_is_not_told_as_none(gone: int, words: str) -> None:
    total = 156_726_829
    current, new = recipe_of({"x": ("a", total)}), recipe_of({"x": ("a", total - gone)})
    figures = f"| sequences kept | {total:,} | {total - gone:,} | "
    mark = "**" if gone else ""
    assert describe(changes_between(current, new), 0).count(figures + mark + words + mark) == 1


def test_raw_shards_are_named_as_gone_changed_or_new() -> None:
    current = recipe_of({"same": ("a", 1), "old name": ("b", 1), "changed": ("c", 1), "gone": ("d", 1)})
    new = recipe_of({"same": ("a", 1), "new name": ("b", 1), "changed": ("e", 1), "new": ("f", 1)})
    assert shard_changes(current, new) == {"gone": ["gone"], "changed": ["changed"], "new": ["new"]}


def swap(contents: dict[str, str]) -> dict[str, str]:
    return dict(zip(contents, reversed(contents.values()), strict=True))


@pytest.mark.parametrize("change", [dict, swap])
def test_renamed_shards_are_no_change(change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    contents = {"x": "a", "y": "b", "z": "c"}
    current, new = (
        recipe_of({name: (sha, 9) for name, sha in found.items()}) for found in (contents, change(contents))
    )
    assert not any(shard_changes(current, new).values())
