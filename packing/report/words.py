"""The recipe in words: its figures as people ask for them, and what its certificate proves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packing.types import Recipe


def describe_gap(gap: int, packs: int) -> str:
    """How close to the best possible, in words."""
    return "proven optimal" if gap == 0 else f"{gap:,} packs above the proven minimum, {gap / packs:.4%}"


def summary_rows(recipe: Recipe) -> list[tuple[str, str]]:
    """The figures that people ask for first."""
    statistics: Mapping[str, Any] = recipe.statistics
    return [
        ("recipe", recipe.recipe_id),
        ("raw shards", f"{len(recipe.shards):,}"),
        ("partitions", f"{len(recipe.partitions):,}"),
        ("sequences", f"{statistics['sequences']:,}"),
        ("packs", f"{statistics['packs']:,}"),
        ("lower bound", f"{statistics['lower_bound']:,} ({statistics['lower_bound_method']})"),
        ("gap", f"{statistics['gap']:,} ({describe_gap(statistics['gap'], statistics['packs'])})"),
        ("packing efficiency", f"{statistics['packing_efficiency']:.4%} real tokens"),
        ("packing factor", f"{statistics['packing_factor']:.4f} sequences a pack"),
        ("solved in", f"{statistics['solve_seconds']:.2f} s"),
    ]


def parameter_rows(recipe: Recipe) -> list[tuple[str, str]]:
    """The parameters by their names."""
    return [(name, str(value)) for name, value in vars(recipe.parameters).items()]


def certificate_words(recipe: Recipe) -> str:
    """What the certificate proves, with the integers that anyone can check."""
    parameters, statistics = recipe.parameters, recipe.statistics
    prices, best = recipe.certificate.prices, recipe.certificate.best_pack_value
    worth = sum(count * price for count, price in zip(recipe.histogram.counts, prices, strict=True))
    gap = describe_gap(statistics["gap"], statistics["packs"])
    return (
        f"The certificate gives each length an integer price. No pack of at most {parameters.max_sequences_per_pack:,} "
        f"sequences and {parameters.max_sequence_length:,} tokens is worth more than {best:,}. "
        f"All {statistics['sequences']:,} sequences together are worth {worth:,}. "
        f"{worth:,} / {best:,}, rounded up, is {-(-worth // best):,}: "
        f"fewer packs cannot hold them. This recipe has {statistics['packs']:,} packs: {gap}."
    )
