"""The stages in the order in which the data flows, and a whole refresh made of them.

Commands run `refresh`; the DAG runs the same stages as tasks. Stages leave their results in the store below
DESTINATION and hand each other names and digests only.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from packing.cache import read_cached
from packing.errors import InputError, ObjectNotFoundError, UsageError, VerificationError
from packing.jsonio import pretty
from packing.manifest import read_manifest, write_manifest
from packing.parallel import Result, StageMap
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
    read_recipe,
    recipe_bytes,
    recipe_uri,
    strategies_from_json,
    strategies_to_json,
)
from packing.recipe_checks import recipe_problems
from packing.scan import check_limits, list_raw_shards, load_index, read_summary, scan_shard
from packing.solvers import solve
from packing.solvers.check import check_strategies
from packing.types import (
    Histogram,
    Manifest,
    Parameters,
    Partition,
    RawShard,
    Recipe,
    ShardSummary,
    StoredShard,
)
from packing.write import read_written, write_partition

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how many of its items are done, and how many there are."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refresh:
    """What a refresh did: the recipe, its manifest, and how much of it was there before."""

    recipe: Recipe
    manifest: Manifest
    manifest_uri: str
    unchanged: bool
    shards_scanned: int
    partitions_written: int


def refresh(
    storage: Storage,
    stage_map: StageMap,
    source: str,
    destination: str,
    parameters: Parameters,
    *,
    time_limit: float | None = None,
    progress: Progress | None = None,
    on_recipe: Callable[[Recipe], None] | None = None,
) -> Refresh:
    """Make the packed dataset of `source` exist below `destination`; only what changed is read and written.

    `on_recipe` is called once a new recipe is stored, before any pack is written.
    """
    check_locations(source, destination)
    shards = list_raw_shards(storage, source)
    cached = _tracked(
        progress, "look up", stage_map(partial(read_summary, destination=destination), shards), len(shards)
    )
    new = [shard for shard, summary in zip(shards, cached, strict=True) if summary is None]
    scanned = iter(_tracked(progress, "scan", stage_map(partial(scan_shard, destination=destination), new), len(new)))
    summaries = [summary or next(scanned) for summary in cached]
    if recipe := find_current(storage, destination, parameters, summaries):
        uri = manifest_uri(destination, recipe.recipe_id)
        manifest = read_manifest(storage, uri)
        return Refresh(recipe, manifest, uri, unchanged=True, shards_scanned=len(new), partitions_written=0)
    recipe = solve_recipe(storage, stage_map, destination, parameters, summaries, time_limit, progress)
    if on_recipe:
        on_recipe(recipe)
    by_name = {shard.name: shard for shard in shards}
    write = partial(write_if_missing, destination=destination, parameters=parameters, raw_shards=by_name)
    writes = _tracked(progress, "write", stage_map(write, recipe.partitions), len(recipe.partitions))
    manifest = commit(storage, destination, recipe)
    return Refresh(
        recipe,
        manifest,
        manifest_uri(destination, recipe.recipe_id),
        unchanged=False,
        shards_scanned=len(new),
        partitions_written=sum(writes),
    )


def check_locations(source: str, destination: str) -> None:
    """Refuse places in which packed shards would be taken for raw ones by the next refresh."""
    source, destination = _resolved(source), _resolved(destination)
    if _is_within(destination, source):
        raise UsageError(f"destination {destination} is below source {source}; choose one beside it")
    if any(_is_within(source, f"{destination}/{own}") for own in ("index", "manifests", "recipes", "shards")):
        raise UsageError(f"source {source} is part of the packed dataset {destination}; choose raw shards")


def _resolved(uri: str) -> str:
    return uri if uri.startswith("s3://") else os.path.realpath(uri)


def _is_within(uri: str, folder: str) -> bool:
    return f"{uri}/".startswith(f"{folder}/")


def find_current(
    storage: Storage, destination: str, parameters: Parameters, summaries: Sequence[ShardSummary]
) -> Recipe | None:
    """The recipe of a dataset that exists, is complete and sound, and was made from exactly this input; or None."""
    input_uri = _input_uri(destination, dataset_input_id(parameters, contents_of(summaries)))
    current = read_cached(storage, input_uri, lambda document: (document["recipe_id"], dict(document["etags"])))
    if current is None:
        return None
    recipe_id, etags = current
    try:
        read_manifest(storage, manifest_uri(destination, recipe_id))
    except (ObjectNotFoundError, InputError) as exc:
        log.warning("%s; making the dataset again", exc)
        return None
    found = {info.uri: info.etag for info in storage.list(f"{destination}/shards")}
    if any(found.get(uri) != etag for uri, etag in etags.items()):
        return None
    return _read_sound_recipe(storage, recipe_uri(destination, recipe_id))


def _read_sound_recipe(storage: Storage, uri: str) -> Recipe | None:
    try:
        recipe = read_recipe(storage, uri)
    except ObjectNotFoundError:
        return None
    except (InputError, VerificationError) as exc:
        log.warning("%s", exc)
        return None
    if problems := recipe_problems(recipe):
        log.warning("%s: altered (%s); making it again", uri, "; ".join(problems))
        return None
    return recipe


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
    partitions = _tracked(progress, "solve", solves, len(members))
    bound = solve(histogram, parameters.max_sequences_per_pack, "optimal", time_limit)
    input_id = dataset_input_id(parameters, contents_of(summaries))
    seconds = time.monotonic() - started
    recipe = make_recipe(input_id, parameters, summaries, histogram, partitions, bound, seconds)
    uri = recipe_uri(destination, recipe.recipe_id)
    if existing := _read_sound_recipe(storage, uri):
        return existing
    storage.write(uri, recipe_bytes(recipe))
    return recipe


def solve_histogram(parameters: Parameters, histogram: Histogram, time_limit: float | None = None) -> Recipe:
    """The recipe of a histogram alone: one partition that names no raw shards."""
    solution = solve(histogram, parameters.max_sequences_per_pack, parameters.solver, time_limit)
    input_id = histogram_input_id(parameters, histogram)
    partition = make_partition(input_id, (), histogram.sequences, solution.strategies, complete=solution.complete)
    return make_recipe(input_id, parameters, (), histogram, [partition], solution, solution.seconds)


def histogram_of(summaries: Sequence[ShardSummary], max_sequence_length: int) -> Histogram:
    """The length histogram of some raw shards together."""
    counts = [0] * max_sequence_length
    for length, count, _ in chain.from_iterable(summary.lengths for summary in summaries):
        counts[length - 1] += count
    return Histogram(tuple(counts))


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


def write_if_missing(
    storage: Storage,
    partition: Partition,
    *,
    destination: str,
    parameters: Parameters,
    raw_shards: Mapping[str, RawShard],
) -> bool:
    """Write the partition unless the store holds it completely; whether it was written."""
    if read_written(storage, partition, destination=destination) is not None:
        return False
    write_partition(storage, partition, destination=destination, parameters=parameters, raw_shards=raw_shards)
    return True


def commit(storage: Storage, destination: str, recipe: Recipe) -> Manifest:
    """Check that every partition of `recipe` is complete, then store the manifest and the pointers to it.

    Raises VerificationError, and stores nothing, if anything is missing or does not add up to the recipe.
    """
    stored: list[StoredShard] = []
    for partition in recipe.partitions:
        written = read_written(storage, partition, destination=destination)
        if written is None:
            raise VerificationError(f"partition {partition.digest}: its packed shards are incomplete; refresh again")
        stored.extend(written)
    parameters = recipe.parameters
    manifest = Manifest(
        recipe_id=recipe.recipe_id,
        max_sequence_length=parameters.max_sequence_length,
        max_sequences_per_pack=parameters.max_sequences_per_pack,
        max_predictions_per_sequence=parameters.max_predictions_per_sequence,
        shards=tuple(entry.shard for entry in stored),
    )
    expected = (recipe.statistics["packs"], recipe.histogram.sequences, recipe.histogram.tokens)
    found = (manifest.packs, manifest.sequences, manifest.tokens)
    if found != expected:
        raise VerificationError(
            f"recipe {recipe.recipe_id}: expected (packs, sequences, tokens) {expected}, packed shards hold {found}"
        )
    uri = manifest_uri(destination, recipe.recipe_id)
    write_manifest(storage, uri, manifest)
    etags = {entry.shard.uri: entry.etag for entry in stored}
    storage.write(_input_uri(destination, recipe.input_id), pretty({"recipe_id": recipe.recipe_id, "etags": etags}))
    storage.write(f"{destination}/latest.json", pretty({"manifest": uri, "recipe_id": recipe.recipe_id}))
    return manifest


def manifest_uri(destination: str, recipe_id: str) -> str:
    """Where a destination keeps the manifest of a recipe's packed dataset."""
    return f"{destination}/manifests/{recipe_id}.json"


def _input_uri(destination: str, input_id: str) -> str:
    return f"{destination}/index/inputs/{input_id}.json"


def _tracked(progress: Progress | None, stage: str, results: Iterator[Result], total: int) -> list[Result]:
    """All results of a stage, telling `progress` of each."""
    collected: list[Result] = []
    if progress:
        progress(stage, 0, total)
    for result in results:
        collected.append(result)
        if progress:
            progress(stage, len(collected), total)
    return collected


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
