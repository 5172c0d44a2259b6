"""The figures of a finished run, from the recipe in the store and the runs in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

from demo.mlflow_api import MlflowApi
from packing.commit import manifest_uri
from packing.manifest import read_manifest
from packing.ports import Storage
from packing.recipe import read_recipe, recipe_uri
from packing.report import describe_gap
from packing.types import Manifest, Recipe


@dataclass(frozen=True)
class Figures:
    """One refresh and the training on it; `recipe_run` and `training_run` are run ids in MLflow."""

    recipe: Recipe
    recipe_uri: str
    manifest: Manifest
    manifest_uri: str
    recipe_run: str
    training_run: str
    mlm_losses: tuple[float, ...]
    real_tokens_per_second: float


def collect_figures(storage: Storage, mlflow: MlflowApi, destination: str, refresh_run: str) -> Figures:
    """Read the recipe that the Airflow run `refresh_run` recorded, its manifest, and the training run that used it."""
    recorded = mlflow.find_run("packing-recipes", f"tags.`airflow.run_id` = '{refresh_run}'")
    recipe_id = recorded.params["recipe_id"]
    trained = mlflow.find_run("bert-pretraining", f"params.recipe_id = '{recipe_id}'")
    recipe, manifest = recipe_uri(destination, recipe_id), manifest_uri(destination, recipe_id)
    return Figures(
        recipe=read_recipe(storage, recipe),
        recipe_uri=recipe,
        manifest=read_manifest(storage, manifest),
        manifest_uri=manifest,
        recipe_run=recorded.run_id,
        training_run=trained.run_id,
        mlm_losses=tuple(mlflow.metric(trained.run_id, "loss/mlm")),
        real_tokens_per_second=median(mlflow.metric(trained.run_id, "throughput/real_tokens_per_second")),
    )


def figures_table(figures: Figures, comparison: Mapping[str, Any]) -> Table:
    """What people ask for first; `comparison` is what `python -m training compare --json` printed."""
    statistics, manifest = figures.recipe.statistics, figures.manifest
    table = Table(title="Packed dataset and training", show_header=False)
    first, last, steps = figures.mlm_losses[0], figures.mlm_losses[-1], len(figures.mlm_losses)
    rows = {
        "sequences": f"{manifest.sequences:,}",
        "packs": f"{manifest.packs:,}",
        "lower bound": f"{statistics['lower_bound']:,}",
        "gap": f"{statistics['gap']:,} ({describe_gap(statistics['gap'], statistics['packs'])})",
        "packing efficiency": f"{statistics['packing_efficiency']:.3%} real tokens",
        "packing factor": f"{statistics['packing_factor']:.4f} sequences a pack",
        "MLM loss": f"{first:.3f} at the first step, {last:.3f} at the last of {steps}",
        "real tokens/s": f"{figures.real_tokens_per_second:,.0f} in training",
        "packed over padded": f"{comparison['speedup']:.2f}x sequences/s, over {comparison['sequences']} sequences",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
