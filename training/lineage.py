"""How a training run and the runs of the recipes that it trains on name each other in the tracker."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from packing.errors import TrackingError
from packing.lineage import DESCRIPTION, find_recipe_run, packed_dataset
from packing.ports import Run, Tracker
from training.examples import Examples

logger = logging.getLogger(__name__)

RECIPE_RUN = "stowage.recipe_run"


def recipe_runs(tracker: Tracker, data: Sequence[Examples]) -> list[str]:
    """The run ids of the recipes of packed data, as far as they were recorded."""
    found = [find_recipe_run(tracker, x.manifest.recipe_id, x.uri) for x in data if x.manifest]
    return [run.run_id for run in found if run]


def lineage_tags(recipes: Sequence[str], data: Sequence[Examples]) -> dict[str, str]:
    """The recipes' run ids, separated by blanks, and a description that leads to them."""
    lines = [f"Trained on `{examples.uri}`." for examples in data]
    lines += [f"Recipe run: [{run_id}](#/runs/{run_id})." for run_id in recipes]
    tags = {DESCRIPTION: "\n\n".join(lines)}
    return {**tags, RECIPE_RUN: " ".join(recipes)} if recipes else tags


def join_runs(tracker: Tracker, run: Run, recipes: Sequence[str], data: Sequence[Examples], kind: str) -> None:
    """Make packed data the run's inputs, and add a tag of its own to each of its recipes' runs.

    As no two trainings write the same tag, those that start at the same time are all listed. A user of MLflow who may
    train, but not edit recipes' runs, trains all the same.
    """
    run.log_inputs(packed_dataset(x.manifest, x.uri, "training") for x in data if x.manifest)
    for recipe in recipes:
        try:
            tracker.open_run(recipe).set_tags({f"stowage.training.{run.run_id}": kind})
        except TrackingError as exc:
            logger.warning("the recipe's run does not list this training: %s", exc)
