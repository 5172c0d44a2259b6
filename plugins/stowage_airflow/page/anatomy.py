"""What a recipe is made of, as rows for tables and charts; all of them follow from the recipe's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packing.ports import Table
from packing.report.tables import pack_composition, padding, top_strategies
from packing.types import Recipe

BARS = 64

Row = Mapping[str, Any]


@dataclass(frozen=True)
class LengthBin:
    """The sequences of `first` to `last` tokens, both included."""

    first: int
    last: int
    sequences: int


@dataclass(frozen=True)
class Anatomy:
    """A recipe taken apart; the rows have the columns of `packing.report.tables`."""

    histogram: tuple[LengthBin, ...]
    composition: tuple[Row, ...]
    padding: tuple[Row, ...]
    top_strategies: tuple[Row, ...]


def take_apart(recipe: Recipe) -> Anatomy:
    """All that a recipe's page draws and lists of its packs."""
    return Anatomy(
        histogram=bin_lengths(recipe.histogram.counts),
        composition=_rows(pack_composition(recipe)),
        padding=_rows(padding(recipe)),
        top_strategies=_rows(top_strategies(recipe)),
    )


def bin_lengths(counts: Sequence[int]) -> tuple[LengthBin, ...]:
    """The histogram in at most BARS bins of equal width; the last may be narrower."""
    width = -(-len(counts) // BARS)
    return tuple(
        LengthBin(start + 1, min(start + width, len(counts)), sum(counts[start : start + width]))
        for start in range(0, len(counts), width)
    )


def _rows(table: Table) -> tuple[Row, ...]:
    return tuple(dict(zip(table.columns, row, strict=True)) for row in table.rows)
