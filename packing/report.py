"""The recipe for people: a summary in words and figures, a picture of its lengths, and its record in the tracker."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from typing import Any

from packing.ports import Metric, Run, Tracker
from packing.recipe import recipe_bytes
from packing.types import Recipe

EXPERIMENT = "packing-recipes"


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


def markdown(recipe: Recipe) -> str:
    """The summary as a Markdown table with the parameters below it."""
    rows = [*summary_rows(recipe), *((name, str(value)) for name, value in _parameters(recipe).items())]
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines) + "\n"


def length_histogram_png(recipe: Recipe) -> bytes:
    """Sequences by length, and the share of slots that hold real tokens before and after packing."""
    # pyplot keeps global state and wants a display; a Figure of one's own needs neither.
    from matplotlib.figure import Figure

    counts = recipe.histogram.counts
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(1, len(counts) + 1), counts, width=1.0, color="#3b6ea5")
    axes.set_xlabel("sequence length (tokens)")
    axes.set_ylabel("sequences")
    axes.set_xlim(0, len(counts) + 1)
    statistics = recipe.statistics
    padded = statistics["tokens"] / (statistics["sequences"] * len(counts))
    axes.set_title(
        f"{statistics['sequences']:,} sequences in {statistics['packs']:,} packs of {len(counts)}: "
        f"real tokens {padded:.1%} padded, {statistics['packing_efficiency']:.2%} packed"
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def track_recipe(tracker: Tracker, recipe: Recipe, *, source: str, destination: str, tags: Mapping[str, str]) -> Run:
    """Record the recipe as a finished run; the caller adds the manifest as a tag once it exists."""
    params = {
        "recipe_id": recipe.recipe_id,
        "input_id": recipe.input_id,
        "source": source,
        "destination": destination,
        **{name: str(value) for name, value in _parameters(recipe).items()},
    }
    run = tracker.start_run(EXPERIMENT, f"recipe-{recipe.recipe_id[:12]}", params=params, tags=tags)
    try:
        now = time.time_ns() // 1_000_000
        values = {name: value for name, value in recipe.statistics.items() if not isinstance(value, str)}
        run.log_metrics(Metric(name, float(value), 0, now) for name, value in values.items())
        run.log_artifacts(
            {
                "recipe/recipe.json": recipe_bytes(recipe),
                "recipe/summary.md": markdown(recipe).encode(),
                "recipe/length_histogram.png": length_histogram_png(recipe),
            }
        )
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish()
    return run


def _parameters(recipe: Recipe) -> dict[str, Any]:
    return dict(vars(recipe.parameters))
