"""Checks of a recipe that need nothing but the recipe: that it is of its shape, and follows from itself.

The bound is proven again from its certificate, by code that no solver uses.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator

from packing.documents import read_document
from packing.errors import InputError, ObjectNotFoundError, StowageError
from packing.jsonio import digest
from packing.ports import Storage
from packing.recipe import (
    dataset_input_id,
    derived_statistics,
    fingerprint_of,
    histogram_input_id,
    make_partition,
    partition_input_id,
    recipe_from_json,
)
from packing.recipe_shape import document_problems
from packing.solvers.check import check_certificate, check_strategies
from packing.tfrecord import FRAME_BYTES
from packing.types import ListedShard, Partition, Recipe, merge_strategies

log = logging.getLogger(__name__)


def read_sound_recipe(storage: Storage, uri: str) -> Recipe | None:
    """The recipe at `uri` if it is there and holds together, or None."""
    try:
        recipe, problems = examine_recipe(storage, uri)
    except ObjectNotFoundError:
        return None
    if problems:
        log.warning("%s: altered (%s); making it again", uri, "; ".join(problems[:10]))
        return None
    return recipe


def examine_recipe(storage: Storage, uri: str) -> tuple[Recipe | None, list[str]]:
    """The recipe at `uri`, None if what is there cannot be read as one, and what does not hold, in words.

    An altered recipe comes back under the `recipe_id` that follows from it. Raises ObjectNotFoundError.
    """
    try:
        document = read_document(storage, uri, "recipe")
    except InputError as exc:
        return None, [str(exc)]
    if problems := document_problems(document):
        return None, problems
    identity = digest({name: document[name] for name in ("input_id", "strategies", "partitions")})
    if identity != document["recipe_id"]:
        problems.append(
            f"recipe_id: expected {identity} from input_id, strategies and partitions, found {document['recipe_id']}"
        )
    try:
        recipe = recipe_from_json({**document, "recipe_id": identity}, uri)
    except InputError as exc:
        return None, [*problems, str(exc)]
    return recipe, problems + recipe_problems(recipe)


def recipe_problems(recipe: Recipe) -> list[str]:
    """What does not hold of a recipe whose document is of its shape, in words; empty for a sound recipe."""
    problems: list[str] = []
    for check in (_identity, _shards, _rejected, _partitions, _divided_shards, _packing, _statistics):
        try:
            problems.extend(check(recipe))
        except StowageError as exc:
            problems.append(str(exc))
        except ArithmeticError as exc:
            problems.append(f"its figures cannot be ({type(exc).__name__}: {exc})")
    return problems


def _identity(recipe: Recipe) -> Iterator[str]:
    contents = {shard.name: shard.sha256 for shard in recipe.shards}
    expected = {
        "dataset.fingerprint": (fingerprint_of(contents), recipe.fingerprint),
        "input_id": (
            dataset_input_id(recipe.parameters, contents)
            if contents
            else histogram_input_id(recipe.parameters, recipe.histogram),
            recipe.input_id,
        ),
    }
    for name, (derived, found) in expected.items():
        if derived != found:
            yield f"{name}: expected {derived} from parameters and raw shards, found {found}"


def _shards(recipe: Recipe) -> Iterator[str]:
    names = [shard.name for shard in recipe.shards]
    if names != sorted(set(names)):
        yield "dataset.shards: expected each name once and in order, found otherwise"
    sources = {shard.uri.removesuffix(shard.name) for shard in recipe.shards}
    if len(sources) > 1 or not all(shard.uri.endswith(shard.name) for shard in recipe.shards):
        yield f"dataset.shards: expected URIs of one source that end with the names, found {sorted(sources)[:5]}"


def _rejected(recipe: Recipe) -> Iterator[str]:
    """Rejected records of listed shards, each once, in file order and within the shard."""
    listed = {shard.name: shard.sequences for shard in recipe.shards}
    records = Counter(listed) + Counter(rejection.shard for rejection in recipe.rejected)
    places = [(rejection.shard, rejection.record) for rejection in recipe.rejected]
    offsets = [(rejection.shard, rejection.offset) for rejection in recipe.rejected]
    if places != sorted(set(places)) or offsets != sorted(set(offsets)):
        yield "rejected: expected each record once and in order, found otherwise"
    for rejection in recipe.rejected:
        where = f"rejected: {rejection.shard}: record {rejection.record} at offset {rejection.offset}"
        if rejection.shard not in listed:
            yield f"{where}: expected a listed raw shard, found none of this name"
        elif rejection.record >= records[rejection.shard]:
            yield f"{where}: expected a record of the shard, found only {records[rejection.shard]} there"
        elif rejection.offset < FRAME_BYTES * rejection.record or (rejection.offset > 0) != (rejection.record > 0):
            yield f"{where}: expected an offset with room for the records before it, and for no more if there are none"


def _partitions(recipe: Recipe) -> Iterator[str]:
    """Each partition by itself: its digests, its sequences, its order among the others."""
    shards = {shard.name: shard for shard in recipe.shards}
    order = [(partition.shards, partition.records or (0, 0)) for partition in recipe.partitions]
    if order != sorted(order):
        yield "partitions: expected them in the order of their shards, found otherwise"
    if not recipe.shards and [partition.records for partition in recipe.partitions] != [None]:
        yield "partitions: expected one, without records, as the recipe names no raw shards"
    for partition in recipe.partitions:
        where = f"partition {partition.digest}"
        if unknown := [name for name in partition.shards if name not in shards]:
            yield f"{where}: expected listed raw shards, found {', '.join(unknown[:5])}"
            continue
        members = [shards[name] for name in partition.shards]
        if partition.shards != tuple(sorted(set(partition.shards))) or bool(members) != bool(shards):
            yield f"{where}: expected raw shards, each once and in order, found {partition.shards[:5]}"
        sequences = _sequences_of(recipe, partition, members)
        packed = sum(len(strategy.lengths) * strategy.count for strategy in partition.strategies)
        if not partition.sequences == packed == sequences:
            yield (
                f"{where}: expected {sequences} sequences from its shards, found {partition.sequences} stated and "
                f"{packed} in its strategies"
            )
        if _derived(recipe, partition, members) != partition:
            yield f"{where}: its digests do not follow from its shards and its strategies"
        if merge_strategies(partition.strategies) != partition.strategies:
            yield f"{where}: expected its strategies sorted and each once, found otherwise"
        if not partition.complete and recipe.parameters.solver != "optimal":
            yield f"{where}: expected to be complete, as the solver {recipe.parameters.solver} knows no time limit"


def _sequences_of(recipe: Recipe, partition: Partition, members: list[ListedShard]) -> int:
    if not recipe.shards:
        return recipe.histogram.sequences
    if partition.records is None:
        return sum(shard.sequences for shard in members)
    first, stop = partition.records
    rejected = [r for r in recipe.rejected if r.shard in partition.shards and first <= r.record < stop]
    return stop - first - len(rejected)


def _derived(recipe: Recipe, partition: Partition, members: list[ListedShard]) -> Partition:
    contents = {shard.name: shard.sha256 for shard in members}
    return make_partition(
        partition_input_id(recipe.parameters, contents, partition.records) if contents else recipe.input_id,
        partition.shards,
        partition.records,
        partition.sequences,
        partition.strategies,
        complete=partition.complete,
    )


def _divided_shards(recipe: Recipe) -> Iterator[str]:
    """Each shard's sequences in exactly one partition, or in those of its ranges of records.

    Records that are in no range must be rejected. As the sequences of the ranges are right (`_partitions`), this holds
    if they do not overlap, do not reach beyond the end and together hold the sequences of the shard.
    """
    uses: dict[str, list[Partition]] = defaultdict(list)
    for partition in recipe.partitions:
        for name in partition.shards:
            uses[name].append(partition)
    rejected = Counter(rejection.shard for rejection in recipe.rejected)
    for shard in recipe.shards:
        partitions = uses[shard.name]
        ranges = [partition.records for partition in partitions if partition.records is not None]
        if not ranges:
            if len(partitions) != 1 and (partitions or shard.sequences):
                yield f"partitions: {shard.name}: expected to be in one, found in {len(partitions)}"
            continue
        if len(ranges) < len(partitions) or any(len(partition.shards) > 1 for partition in partitions):
            yield f"partitions: {shard.name}: expected to be alone in those that hold ranges of its records"
            continue
        records, held = shard.sequences + rejected[shard.name], sum(partition.sequences for partition in partitions)
        bounds = [bound for pair in ranges for bound in pair]
        if bounds != sorted(bounds) or bounds[-1] > records or held != shard.sequences:
            yield (
                f"partitions: {shard.name}: expected ranges of its {records} records that hold each of its "
                f"{shard.sequences} sequences once, found {ranges[:5]} with {held}"
            )


def _packing(recipe: Recipe) -> Iterator[str]:
    parameters, histogram = recipe.parameters, recipe.histogram
    if histogram.max_sequence_length != parameters.max_sequence_length:
        yield f"histogram: expected {parameters.max_sequence_length} counts, found {histogram.max_sequence_length}"
        return
    summed = merge_strategies(strategy for partition in recipe.partitions for strategy in partition.strategies)
    if summed != recipe.strategies:
        yield "strategies: not the sum of those of the partitions"
    check_strategies(histogram, parameters.max_sequences_per_pack, recipe.strategies)


def _statistics(recipe: Recipe) -> Iterator[str]:
    found, parameters = recipe.statistics, recipe.parameters
    if not found["time_limited"] and not all(partition.complete for partition in recipe.partitions):
        yield "statistics.time_limited: expected true, as a partition is not complete, found false"
    if recipe.histogram.max_sequence_length != parameters.max_sequence_length:
        return
    lower_bound = check_certificate(recipe.histogram, parameters.max_sequences_per_pack, recipe.certificate)
    derived = derived_statistics(parameters, recipe.histogram, recipe.partitions, lower_bound, len(recipe.rejected))
    for name, value in derived.items():
        if found[name] != value:
            yield f"statistics.{name}: expected {value}, found {found[name]}"
