"""Solve: the strategies of every partition, a proven bound for all together, and the recipe that states both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from packing.documents import read_cached
from packing.errors import InputError, VerificationError
from packing.jsonio import pretty
from packing.parallel import Progress, StageMap, tracked
from packing.partition import assign_partitions
from packing.plan import always_fits, plan_partition
from packing.ports import Storage
from packing.recipe import (
    contents_of,
    dataset_input_id,
    histogram_input_id,
    make_partition,
    make_recipe,
    partition_input_id,
    recipe_bytes,
    recipe_uri,
    strategies_from_json,
    strategies_to_json,
)
from packing.recipe_checks import read_sound_recipe
from packing.scan import check_limits, load_index
from packing.solvers import solve
from packing.solvers.check import check_strategies
from packing.types import Histogram, Parameters, Partition, Recipe, ShardSummary


def solve_recipe(
    storage: Storage,
    stage_map: StageMap,
    destination: str,
    parameters: Parameters,
    summaries: Sequence[ShardSummary],
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> Recipe:
    """Solve every partition, prove a bound for the whole, and store the recipe (an existing one is kept as it is).

    Raises RecordError for a sequence that the parameters do not allow, InputError for data without sequences or masked
    tokens that no assignment fits.
    """
    started = time.monotonic()
    for summary in summaries:
        check_limits(summary, parameters)
    histogram = histogram_of(summaries, parameters.max_sequence_length)
    if not histogram.sequences:
        raise InputError(f"expected at least one sequence in {len(summaries)} raw shards, found none; check SOURCE")
    by_name = {summary.shard.name: summary for summary in summaries}
    assigned = assign_partitions([summary.shard for summary in summaries], parameters.partition_bytes)
    members = [[by_name[shard.name] for shard in shards] for shards in assigned]
    members = [partition for partition in members if any(summary.sequences for summary in partition)]
    solves = stage_map(
        partial(solve_partition, destination=destination, parameters=parameters, time_limit=time_limit), members
    )
    partitions = tracked(progress, "solve", solves, len(members))
    bound = solve(histogram, parameters.max_sequences_per_pack, "optimal", time_limit)
    input_id = dataset_input_id(parameters, contents_of(summaries))
    seconds = time.monotonic() - started
    recipe = make_recipe(input_id, parameters, summaries, histogram, partitions, bound, seconds)
    uri = recipe_uri(destination, recipe.recipe_id)
    if existing := read_sound_recipe(storage, uri):
        return existing
    storage.write(uri, recipe_bytes(recipe))
    return recipe


def solve_partition(
    storage: Storage,
    summaries: Sequence[ShardSummary],
    *,
    destination: str,
    parameters: Parameters,
    time_limit: float | None = None,
) -> Partition:
    """The partition of these shards: from the answer that the store keeps for this input, or else solved and kept."""
    input_id = partition_input_id(parameters, contents_of(summaries))
    uri = f"{destination}/index/solved/{input_id}.json"
    names = [summary.shard.name for summary in summaries]
    sequences = sum(summary.sequences for summary in summaries)
    histogram = histogram_of(summaries, parameters.max_sequence_length)

    def parse(answer: Any) -> Partition:
        strategies = strategies_from_json(answer["strategies"])
        try:
            check_strategies(histogram, parameters.max_sequences_per_pack, strategies)
        except VerificationError as exc:
            raise ValueError(str(exc)) from exc
        return make_partition(input_id, names, sequences, strategies, complete=answer["complete"])

    if kept := read_cached(storage, uri, parse):
        return kept
    solution = solve(histogram, parameters.max_sequences_per_pack, parameters.solver, time_limit)
    partition = make_partition(input_id, names, sequences, solution.strategies, complete=solution.complete)
    _check_masked(storage, partition, summaries, destination=destination, parameters=parameters)
    answer = {"strategies": strategies_to_json(solution.strategies), "complete": solution.complete}
    storage.write(uri, pretty(answer))
    return partition


def _check_masked(
    storage: Storage,
    partition: Partition,
    summaries: Sequence[ShardSummary],
    *,
    destination: str,
    parameters: Parameters,
) -> None:
    """Plan the partition now if its masked tokens might not fit, so that a failure comes before anything is written."""
    if not always_fits(partition.strategies, summaries, parameters.max_predictions_per_pack):
        indexes = [load_index(storage, summary.shard, destination=destination) for summary in summaries]
        plan_partition(partition, indexes, parameters)


def histogram_of(summaries: Sequence[ShardSummary], max_sequence_length: int) -> Histogram:
    """The length histogram of some raw shards together."""
    counts = [0] * max_sequence_length
    for length, count, _ in chain.from_iterable(summary.lengths for summary in summaries):
        counts[length - 1] += count
    return Histogram(tuple(counts))


def solve_histogram(parameters: Parameters, histogram: Histogram, time_limit: float | None = None) -> Recipe:
    """The recipe of a histogram alone: one partition that names no raw shards."""
    solution = solve(histogram, parameters.max_sequences_per_pack, parameters.solver, time_limit)
    input_id = histogram_input_id(parameters, histogram)
    partition = make_partition(input_id, (), histogram.sequences, solution.strategies, complete=solution.complete)
    return make_recipe(input_id, parameters, (), histogram, [partition], solution, solution.seconds)
