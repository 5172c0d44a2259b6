"""How much a new recipe differs from the one whose packed dataset is current: what a person is asked to approve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packing.types import Recipe

PACK_SHAPE = ("max_sequence_length", "max_sequences_per_pack", "max_predictions_per_sequence")
"""The parameters that trainings see in each pack, so a person decides about any other value."""


@dataclass(frozen=True)
class Change:
    """One figure or parameter of the current recipe and of the new one.

    `percent` is how much it counts, 0 or more: infinity for one that always does, None for one that never does.
    """

    name: str
    current: str
    new: str
    percent: float | None

    def exceeds(self, percent: float) -> bool:
        return self.percent is not None and self.percent > percent


def changes_between(current: Recipe, new: Recipe) -> tuple[Change, ...]:
    """What was kept of the raw data and what is other, packing efficiency, size, and the parameters that differ.

    Raw data is told by its content: a shard that was replaced is gone, one that was only renamed is kept.
    """
    return (*_data_changes(current, new), *_figure_changes(current, new), *_parameter_changes(current, new))


def _data_changes(current: Recipe, new: Recipe) -> Iterator[Change]:
    before, after = _sequences_by_content(current), _sequences_by_content(new)
    total, kept, added = before.total(), (before & after).total(), (after - before).total()
    yield Change("sequences kept", f"{total:,}", f"{kept:,}", 100 * (total - kept) / total)
    yield Change("sequences added", "0", f"{added:,}", 100 * added / total)


def _sequences_by_content(recipe: Recipe) -> Counter[str]:
    """Packed sequences by the SHA-256 of their raw shard."""
    counts: Counter[str] = Counter()
    for shard in recipe.shards:
        counts[shard.sha256] += shard.sequences
    return counts


def _figure_changes(current: Recipe, new: Recipe) -> Iterator[Change]:
    before, after = (recipe.statistics["packing_efficiency"] for recipe in (current, new))
    yield Change("packing efficiency", f"{before:.4%}", f"{after:.4%}", 100 * abs(after - before) / before)
    before, after = (recipe.statistics["packs"] * recipe.parameters.max_sequence_length for recipe in (current, new))
    yield Change("size in slots", f"{before:,}", f"{after:,}", 100 * abs(after - before) / before)


def _parameter_changes(current: Recipe, new: Recipe) -> Iterator[Change]:
    before, after = vars(current.parameters), vars(new.parameters)
    for name in before:
        if before[name] != after[name]:
            counts = float("inf") if name in PACK_SHAPE else None
            yield Change(name, str(before[name]), str(after[name]), counts)


def shard_changes(current: Recipe, new: Recipe) -> dict[str, list[str]]:
    """The names of raw shards that are gone, that are there with another content, and that are new."""
    before, after = ({shard.name: shard.sha256 for shard in recipe.shards} for recipe in (current, new))
    kept = set(before.values()) & set(after.values())
    gone = {name for name, content in before.items() if content not in kept}
    come = {name for name, content in after.items() if content not in kept}
    changed = sorted(name for name in gone | come if name in before and name in after)
    return {"gone": sorted(gone - after.keys()), "changed": changed, "new": sorted(come - before.keys())}


def exceeding(changes: Sequence[Change], percent: float) -> tuple[Change, ...]:
    """The changes by more than `percent`."""
    return tuple(change for change in changes if change.exceeds(percent))


def describe(changes: Sequence[Change], percent: float) -> str:
    """The changes as a Markdown table, those above `percent` in bold."""
    rows = ["| | current | new | change |", "| --- | ---: | ---: | ---: |"]
    for change in changes:
        mark = "**" if change.exceeds(percent) else ""
        rows.append(f"| {change.name} | {change.current} | {change.new} | {mark}{_words(change.percent)}{mark} |")
    return "\n".join(rows)


def _words(percent: float | None) -> str:
    """Three significant digits, as a small share of much data is much data."""
    if percent is None or percent == float("inf"):
        return "another value"
    return f"{Decimal(f'{percent:.3g}'):,f} %"
