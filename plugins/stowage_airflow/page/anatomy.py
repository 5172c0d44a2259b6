"""What a recipe is made of, as figures for tables and charts; all of them follow from the recipe's JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from packing.types import Recipe, Strategy

BARS = 64
TOP_STRATEGIES = 20


@dataclass(frozen=True)
class LengthBin:
    """The sequences of `first` to `last` tokens, both included."""

    first: int
    last: int
    sequences: int


@dataclass(frozen=True)
class Composition:
    """The packs that hold this many sequences each."""

    sequences_per_pack: int
    packs: int
    tokens: int


@dataclass(frozen=True)
class Padding:
    """The packs with `least` to `most` empty slots each, and their empty slots in all."""

    least: int
    most: int
    packs: int
    padding_tokens: int

    @property
    def label(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


@dataclass(frozen=True)
class UsedStrategy:
    """A strategy with its tokens and its empty slots, of one pack."""

    lengths: tuple[int, ...]
    packs: int
    tokens: int
    padding: int


@dataclass(frozen=True)
class Anatomy:
    """A recipe taken apart."""

    histogram: tuple[LengthBin, ...]
    composition: tuple[Composition, ...]
    padding: tuple[Padding, ...]
    top_strategies: tuple[UsedStrategy, ...]
    distinct_strategies: int


def take_apart(recipe: Recipe) -> Anatomy:
    """All that a recipe's page draws and lists of its packs."""
    slots = recipe.parameters.max_sequence_length
    return Anatomy(
        histogram=bin_lengths(recipe.histogram.counts),
        composition=_composition(recipe.strategies),
        padding=_padding(recipe.strategies, slots),
        top_strategies=_top(recipe.strategies, slots),
        distinct_strategies=len(recipe.strategies),
    )


def bin_lengths(counts: Sequence[int]) -> tuple[LengthBin, ...]:
    """The histogram in at most BARS bins of equal width; the last may be narrower."""
    width = -(-len(counts) // BARS)
    return tuple(
        LengthBin(start + 1, min(start + width, len(counts)), sum(counts[start : start + width]))
        for start in range(0, len(counts), width)
    )


def _composition(strategies: Sequence[Strategy]) -> tuple[Composition, ...]:
    packs: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    for strategy in strategies:
        packs[len(strategy.lengths)] += strategy.count
        tokens[len(strategy.lengths)] += sum(strategy.lengths) * strategy.count
    return tuple(Composition(size, packs[size], tokens[size]) for size in sorted(packs))


def _padding(strategies: Sequence[Strategy], slots: int) -> tuple[Padding, ...]:
    """Packs by their empty slots, in ranges that double: 0, 1, 2 to 3, 4 to 7, ..."""
    packs: Counter[int] = Counter()
    padding: Counter[int] = Counter()
    for strategy in strategies:
        empty = slots - sum(strategy.lengths)
        packs[empty.bit_length()] += strategy.count
        padding[empty.bit_length()] += empty * strategy.count
    return tuple(
        Padding(1 << bits >> 1, min((1 << bits) - 1, slots - 1), packs[bits], padding[bits]) for bits in sorted(packs)
    )


def _top(strategies: Sequence[Strategy], slots: int) -> tuple[UsedStrategy, ...]:
    used = sorted(strategies, key=lambda strategy: (-strategy.count, strategy.lengths))[:TOP_STRATEGIES]
    return tuple(
        UsedStrategy(strategy.lengths, strategy.count, sum(strategy.lengths), slots - sum(strategy.lengths))
        for strategy in used
    )
