"""Sound recipes of raw shards that were never written, and their records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from packing.in_memory import MemoryRun, MemoryTracker
from packing.jsonio import pretty
from packing.lineage import dataset_digest
from packing.manifest import manifest_to_json
from packing.ports import InputDataset, Metric
from packing.recipe import contents_of, dataset_input_id, make_partition, make_recipe, partition_input_id, recipe_bytes
from packing.report.record import registered_name
from packing.solvers import solve
from packing.types import (
    Histogram,
    Manifest,
    PackedShard,
    Parameters,
    Partition,
    RawShard,
    Recipe,
    Rejection,
    Segment,
    ShardSummary,
)

SOURCE, DESTINATION = "s3://raw/wikipedia", "s3://packed/wikipedia"
FROM_AIRFLOW = {
    "airflow.dag_id": "refresh_packed_dataset",
    "airflow.run_id": "manual__2026-11-22T02:00:00+00:00",
    "stowage.triggered_by": "<admin>, by hand",
}


def recipe_of(
    shards: Sequence[Sequence[int]], parameters: Parameters, *, rejected: int = 0, seed: int = 0, prefix: str = "part"
) -> Recipe:
    """The recipe of shards with sequences of these lengths, each shard a partition; the first has rejected records."""
    summaries = [
        _summary(f"{prefix}-{number:05d}.tfrecord", lengths, rejected if number == 0 else 0, seed)
        for number, lengths in enumerate(shards)
    ]
    partitions = [_partition(summary, lengths, parameters) for summary, lengths in zip(summaries, shards, strict=True)]
    histogram = Histogram.of_lengths([n for lengths in shards for n in lengths], parameters.max_sequence_length)
    bound = solve(histogram, parameters.max_sequences_per_pack)
    input_id = dataset_input_id(parameters, contents_of(summaries))
    return make_recipe(input_id, parameters, summaries, histogram, partitions, bound, 0.25)


def _summary(name: str, lengths: Sequence[int], rejected: int, seed: int) -> ShardSummary:
    sha256 = hashlib.sha256(repr((seed, lengths)).encode()).hexdigest()
    counted = tuple((length, count, 1) for length, count in sorted(Counter(lengths).items()))
    segment = Segment(0, 0, len(lengths) + rejected, 0, 1000 * len(lengths), 100 * len(lengths), counted)
    rejections = tuple(Rejection(name, n, 1000 * n, "76 masked_lm_ids", f"<b>75</b> {name}") for n in range(rejected))
    shard = RawShard(name, f"{SOURCE}/{name}", 1000 * len(lengths), f"etag-{sha256[:8]}")
    return ShardSummary(shard, sha256, (segment,), rejections)


def _partition(summary: ShardSummary, lengths: Sequence[int], parameters: Parameters) -> Partition:
    histogram = Histogram.of_lengths(lengths, parameters.max_sequence_length)
    strategies = solve(histogram, parameters.max_sequences_per_pack).strategies
    input_id = partition_input_id(parameters, contents_of([summary]))
    return make_partition(input_id, [summary.shard.name], None, len(lengths), strategies, complete=True)


def small_recipe(seed: int = 0) -> Recipe:
    """Five sequences in two partitions, for packs of 24 slots; recipes of different seeds have different data."""
    return recipe_of([[5, 6, 20], [7, 3]], Parameters(max_sequence_length=24), seed=seed, rejected=1)


def manifest_of(recipe: Recipe, destination: str = DESTINATION) -> Manifest:
    """A manifest with one packed shard for each partition."""
    parameters = recipe.parameters
    return Manifest(
        recipe.recipe_id,
        parameters.max_sequence_length,
        parameters.max_sequences_per_pack,
        parameters.max_predictions_per_sequence,
        tuple(
            PackedShard(
                uri=f"{destination}/shards/{partition.digest}/part-00000.tfrecord",
                bytes=5000 * partition.packs,
                packs=partition.packs,
                sequences=partition.sequences,
                tokens=sum(sum(strategy.lengths) * strategy.count for strategy in partition.strategies),
                sha256=partition.digest,
            )
            for partition in recipe.partitions
        ),
    )


def track(
    tracker: MemoryTracker,
    recipe: Recipe,
    *,
    destination: str = DESTINATION,
    tags: Mapping[str, str] | None = None,
    committed: bool = True,
) -> MemoryRun:
    """Record the recipe as `packing.report` does, without pictures, and its manifest unless it was not committed."""
    params = {
        "recipe_id": recipe.recipe_id,
        "source": SOURCE,
        "destination": destination,
        **{name: str(value) for name, value in asdict(recipe.parameters).items()},
    }
    run = tracker.start_run("packing-recipes", f"recipe-{recipe.recipe_id[:12]}", params=params, tags=tags or {})
    figures = {name: value for name, value in recipe.statistics.items() if not isinstance(value, str)}
    run.log_metrics(Metric(name, float(value), 0, 0) for name, value in figures.items())
    run.log_artifacts({"recipe/recipe.json": recipe_bytes(recipe)})
    run.finish()
    if committed:
        run.set_tags({"stowage.manifest": f"{destination}/manifests/{recipe.recipe_id}.json"})
        run.log_artifacts({"recipe/manifest.json": pretty(manifest_to_json(manifest_of(recipe, destination)))})
    return run


def make_current(tracker: MemoryTracker, run: MemoryRun) -> None:
    """Let the tracker say that the recipe of this run is its destination's current one."""
    recipe_id, destination = run.params["recipe_id"], run.params["destination"]
    tags = {"recipe_id": recipe_id, "manifest": f"{destination}/manifests/{recipe_id}.json"}
    tracker.set_current(registered_name(destination), run.run_id, tags=tags, description="recipes")


def track_training(tracker: MemoryTracker, recipe_ids: str, speedup: float | None = None) -> MemoryRun:
    """Record a training on the recipes, several of which are separated by blanks; a comparison has a speed-up."""
    name = f"train {recipe_ids[:12]}"
    run = tracker.start_run("bert-pretraining", name, params={"recipe_id": recipe_ids}, tags={})
    run.log_inputs(
        InputDataset(DESTINATION, dataset_digest(recipe_id), DESTINATION, "training")
        for recipe_id in recipe_ids.split()
    )
    if speedup is not None:
        run.log_metrics([Metric("speedup", speedup, 0, 0)])
    run.finish()
    return run
