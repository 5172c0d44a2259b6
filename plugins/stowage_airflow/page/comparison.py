"""Two recipes side by side: figures, parameters, lengths and raw shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from packing.types import ListedShard, Recipe
from stowage_airflow.page.anatomy import LengthBin, bin_lengths
from stowage_airflow.page.words import FIGURES


@dataclass(frozen=True)
class Difference:
    """One figure of both recipes; name, title and kind are those of `words.FIGURES`."""

    name: str
    title: str
    kind: str
    left: int | float
    right: int | float

    @property
    def change(self) -> int | float:
        return self.right - self.left


@dataclass(frozen=True)
class Choice:
    """One parameter of both recipes, or who made them."""

    name: str
    left: Any
    right: Any


@dataclass(frozen=True)
class ShardChange:
    """A raw shard that only one of the recipes has, or of which they have different contents."""

    name: str
    what: str
    left: ListedShard | None
    right: ListedShard | None


@dataclass(frozen=True)
class Comparison:
    """What differs between two recipes; both histograms have the same bins."""

    figures: tuple[Difference, ...]
    choices: tuple[Choice, ...]
    lengths: tuple[tuple[LengthBin, LengthBin], ...]
    shards: tuple[ShardChange, ...]
    shards_alike: int


def compare(left: Recipe, right: Recipe) -> Comparison:
    """All that the page of two recipes shows."""
    shards = tuple(_changed_shards(left.shards, right.shards))
    names = {shard.name for shard in left.shards} | {shard.name for shard in right.shards}
    return Comparison(
        figures=tuple(_figures(left, right)),
        choices=tuple(_choices(left, right)),
        lengths=_lengths(left, right),
        shards=shards,
        shards_alike=len(names) - len(shards),
    )


def _figures(left: Recipe, right: Recipe) -> Iterable[Difference]:
    for name, title, kind in FIGURES:
        yield Difference(name, title, kind, left.statistics[name], right.statistics[name])


def _choices(left: Recipe, right: Recipe) -> Iterable[Choice]:
    both = (
        (asdict(left.parameters), asdict(right.parameters)),
        (
            {"lower_bound_method": left.statistics["lower_bound_method"]},
            {"lower_bound_method": right.statistics["lower_bound_method"]},
        ),
        (left.producer, right.producer),
    )
    for these, those in both:
        yield from (Choice(name, value, those[name]) for name, value in these.items())


def _lengths(left: Recipe, right: Recipe) -> tuple[tuple[LengthBin, LengthBin], ...]:
    longest = max(left.histogram.max_sequence_length, right.histogram.max_sequence_length)
    padded = [
        bin_lengths(recipe.histogram.counts + (0,) * (longest - recipe.histogram.max_sequence_length))
        for recipe in (left, right)
    ]
    return tuple(zip(*padded, strict=True))


def _changed_shards(left: Iterable[ListedShard], right: Iterable[ListedShard]) -> Iterable[ShardChange]:
    before, after = ({shard.name: shard for shard in shards} for shards in (left, right))
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            yield ShardChange(name, "added" if old is None else "removed", old, new)
        elif old.sha256 != new.sha256:
            yield ShardChange(name, "changed", old, new)
