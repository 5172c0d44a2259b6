"""What counts as a change between two recipes."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))  # as Airflow does

from stowage_airflow.changes import changes_between, describe, exceeding

STATISTICS = st.builds(
    lambda sequences, packs, share: {
        "sequences": sequences,
        "tokens": round(packs * 512 * share),
        "padding_tokens": packs * 512 - round(packs * 512 * share),
        "packing_efficiency": round(packs * 512 * share) / (packs * 512),
    },
    st.integers(1, 10**9),
    st.integers(1, 10**9),
    st.floats(0.1, 1),
)
PERCENT = st.floats(0, 200)


@given(STATISTICS, PERCENT)
def test_the_same_recipe_is_no_change(statistics: dict[str, float], percent: float) -> None:
    assert exceeding(changes_between(statistics, statistics), percent) == ()


@given(STATISTICS, STATISTICS, PERCENT, PERCENT)
def test_a_higher_threshold_asks_about_less(
    current: dict[str, float], new: dict[str, float], one: float, other: float
) -> None:
    changes = changes_between(current, new)
    assert all(change.percent >= 0 for change in changes)
    few, many = (set(exceeding(changes, percent)) for percent in (max(one, other), min(one, other)))
    assert few <= many <= set(changes)
    assert describe(changes, one).count("**") == 2 * len(exceeding(changes, one))


@given(STATISTICS, st.integers(0, 100), st.integers(0, 100))
def test_each_figure_counts_by_itself(current: dict[str, float], part: int, percent: int) -> None:
    """Sequences, efficiency and size that go down by `part` percent are asked about below exactly that."""
    left = 1 - part / 100
    slots = current["tokens"] + current["padding_tokens"]
    for name, new in (
        ("sequences dropped", {**current, "sequences": current["sequences"] * left}),
        ("packing efficiency", {**current, "packing_efficiency": current["packing_efficiency"] * left}),
        ("size in slots", {**current, "padding_tokens": current["padding_tokens"] - slots * (1 - left)}),
    ):
        asked = [change.name for change in exceeding(changes_between(current, new), percent)]
        assert asked == ([name] if part > percent else []) or part == percent


@given(STATISTICS, st.floats(1, 100))
def test_more_sequences_are_not_dropped_ones(current: dict[str, float], factor: float) -> None:
    more = {**current, "sequences": current["sequences"] * factor}
    assert exceeding(changes_between(current, more), 0) == ()
