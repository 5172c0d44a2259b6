"""The recipe's figures as PNG pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from packing.report.tables import pack_composition, padding
from packing.types import Recipe

BLUE = "#3b6ea5"


def recipe_figures(recipe: Recipe) -> dict[str, bytes]:
    """All figures by name."""
    return {
        "length_histogram": length_histogram(recipe),
        "pack_composition": composition_figure(recipe),
        "padding": padding_figure(recipe),
    }


def length_histogram(recipe: Recipe) -> bytes:
    """Sequences by length, and the share of slots that hold real tokens before and after packing."""
    counts, statistics = recipe.histogram.counts, recipe.statistics
    figure, axes = _axes("sequence length (tokens)", "sequences")
    axes.bar(range(1, len(counts) + 1), counts, width=1.0, color=BLUE)
    axes.set_xlim(0, len(counts) + 1)
    padded = statistics["tokens"] / (statistics["sequences"] * len(counts))
    axes.set_title(
        f"{statistics['sequences']:,} sequences in {statistics['packs']:,} packs of {len(counts)}: "
        f"real tokens {padded:.1%} padded, {statistics['packing_efficiency']:.2%} packed"
    )
    return _png(figure)


def composition_figure(recipe: Recipe) -> bytes:
    """Packs by the number of their sequences."""
    rows = pack_composition(recipe).rows
    figure, axes = _axes("sequences in a pack", "packs")
    _bars(axes, [str(row[0]) for row in rows], [row[1] for row in rows])
    axes.set_title(f"on average {recipe.statistics['packing_factor']:.4f} sequences a pack")
    return _png(figure)


def padding_figure(recipe: Recipe) -> bytes:
    """Padding tokens by the number of empty slots of their pack."""
    rows = padding(recipe).rows[1:]
    labels = [str(row[0]) if row[0] == row[1] else f"{row[0]} to {row[1]}" for row in rows]
    figure, axes = _axes("empty slots of a pack", "padding tokens")
    _bars(axes, labels, [row[3] for row in rows])
    before = recipe.statistics["padding_tokens_unpacked"]
    axes.set_title(f"{recipe.statistics['padding_tokens']:,} padding tokens are left of {before:,} without packing")
    return _png(figure)


def _axes(xlabel: str, ylabel: str) -> tuple[Any, Any]:
    # pyplot keeps global state and wants a display; a Figure of one's own needs neither.
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure, axes


def _bars(axes: Any, labels: Sequence[str], values: Sequence[Any]) -> None:
    """Few bars, one beside the other however many sequences they stand for; many get fewer labels."""
    axes.bar(range(len(labels)), values, color=BLUE)
    every = -(-len(labels) // 20) or 1
    axes.set_xticks(range(0, len(labels), every), labels[::every])


def _png(figure: Any) -> bytes:
    picture = io.BytesIO()
    # Without the version of matplotlib in it, the same recipe gives the same bytes.
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()
