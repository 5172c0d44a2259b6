"""Solve: the strategies of every partition, a proven bound for all together, and the recipe that states both."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from packing.documents import read_cached, write_cached
from packing.errors import InputError, VerificationError
from packing.listing import source_of
from packing.parallel import Progress, StageMap, tracked
from packing.partition import Members, assign_partitions
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
from packing.scan import load_index
from packing.solvers import solve
from packing.solvers.check import check_strategies
from packing.types import Histogram, Parameters, Partition, Recipe, Segment, ShardSummary, Strategy, segments_of


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

    The summaries are those of `packing.admission`. Raises InputError for data without sequences or masked tokens that
    no assignment fits.
    """
    started = time.monotonic()
    histogram = histogram_of(segments_of(summaries), parameters.max_sequence_length)
    if not histogram.sequences:
        raise InputError(
            f"{source_of(summaries[0].shard)}: expected at least one sequence in {len(summaries)} raw shards, found "
            "none; check the prefix"
        )
    members = assign_partitions(summaries, parameters.partition_bytes)
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
    members: Members,
    *,
    destination: str,
    parameters: Parameters,
    time_limit: float | None = None,
) -> Partition:
    """The partition of these members: from the answer that the store keeps for this input, or else solved and kept."""
    if kept := find_solved(storage, members, destination=destination, parameters=parameters):
        return kept
    input_id = _input_id(members, parameters)
    histogram = histogram_of(segments_of(members.summaries), parameters.max_sequence_length)
    solution = solve(histogram, parameters.max_sequences_per_pack, parameters.solver, time_limit)
    partition = _partition(input_id, members, solution.strategies, complete=solution.complete)
    _check_masked(storage, partition, members, destination=destination, parameters=parameters)
    answer = {"strategies": strategies_to_json(solution.strategies), "complete": solution.complete}
    write_cached(storage, _answer_uri(destination, input_id), answer)
    return partition


def find_solved(storage: Storage, members: Members, *, destination: str, parameters: Parameters) -> Partition | None:
    """The partition of these members as the store keeps its answer, or None if it keeps none that holds."""
    input_id = _input_id(members, parameters)

    def parse(answer: Any) -> Partition:
        strategies = strategies_from_json(answer["strategies"])
        histogram = histogram_of(segments_of(members.summaries), parameters.max_sequence_length)
        try:
            check_strategies(histogram, parameters.max_sequences_per_pack, strategies)
        except VerificationError as exc:
            raise ValueError(str(exc)) from exc
        return _partition(input_id, members, strategies, complete=answer["complete"])

    return read_cached(storage, _answer_uri(destination, input_id), parse)


def _input_id(members: Members, parameters: Parameters) -> str:
    return partition_input_id(parameters, contents_of(members.summaries), members.records)


def _answer_uri(destination: str, input_id: str) -> str:
    return f"{destination}/index/solved/{input_id}.json"


def _partition(input_id: str, members: Members, strategies: tuple[Strategy, ...], *, complete: bool) -> Partition:
    return make_partition(input_id, members.names, members.records, members.sequences, strategies, complete=complete)


def _check_masked(
    storage: Storage, partition: Partition, members: Members, *, destination: str, parameters: Parameters
) -> None:
    """Plan the partition now if its masked tokens might not fit, so that a failure comes before anything is written."""
    if always_fits(partition.strategies, members.summaries, parameters.max_predictions_per_pack):
        return
    indexes = [
        load_index(storage, summary, segment.number, destination=destination)
        for summary in members.summaries
        for segment in summary.segments
    ]
    lengths = np.concatenate([index.lengths for index in indexes])
    masked = np.concatenate([index.masked for index in indexes])
    plan_partition(partition, lengths, masked, parameters)


def histogram_of(segments: Iterable[Segment], max_sequence_length: int) -> Histogram:
    """The length histogram of some segments of raw shards together."""
    counts = [0] * max_sequence_length
    for segment in segments:
        for length, count, _ in segment.lengths:
            counts[length - 1] += count
    return Histogram(tuple(counts))


def solve_histogram(parameters: Parameters, histogram: Histogram, time_limit: float | None = None) -> Recipe:
    """The recipe of a histogram alone: one partition that names no raw shards."""
    solution = solve(histogram, parameters.max_sequences_per_pack, parameters.solver, time_limit)
    input_id = histogram_input_id(parameters, histogram)
    partition = make_partition(input_id, (), None, histogram.sequences, solution.strategies, complete=solution.complete)
    return make_recipe(input_id, parameters, (), histogram, [partition], solution, solution.seconds)
