"""Whether a recipe holds together: all that it states that can be derived from the rest of it.

The bound is proven again from its certificate, by code that no solver uses.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

from packing.errors import InputError, ObjectNotFoundError, StowageError, VerificationError
from packing.ports import Storage
from packing.recipe import (
    dataset_input_id,
    derived_statistics,
    fingerprint_of,
    histogram_input_id,
    make_partition,
    partition_input_id,
    read_recipe,
)
from packing.solvers.check import check_certificate, check_strategies
from packing.types import Partition, Recipe, merge_strategies

log = logging.getLogger(__name__)


def read_sound_recipe(storage: Storage, uri: str) -> Recipe | None:
    """The recipe at `uri` if it is there and holds together, or None."""
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


def recipe_problems(recipe: Recipe) -> list[str]:
    """What does not hold, in words; empty for a sound recipe."""
    try:
        return [*_identity_problems(recipe), *_partition_problems(recipe), *_packing_problems(recipe)]
    except StowageError as exc:
        return [str(exc)]
    except (TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        return [f"a field has a type or value that cannot be ({type(exc).__name__}: {exc})"]


def _identity_problems(recipe: Recipe) -> Iterator[str]:
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


def _partition_problems(recipe: Recipe) -> Iterator[str]:
    by_name = {shard.name: shard for shard in recipe.shards}
    used = Counter(name for partition in recipe.partitions for name in partition.shards)
    wanted = {shard.name for shard in recipe.shards if shard.sequences}
    if strange := sorted((used.keys() - by_name.keys()) | (wanted - used.keys())):
        yield f"partitions: the raw shards {', '.join(strange[:5])} are not in both the dataset and a partition"
        return
    if doubled := sorted(name for name, times in used.items() if times > 1):
        yield f"partitions: the raw shards {', '.join(doubled[:5])} are in several partitions"
    for partition in recipe.partitions if recipe.shards else ():
        contents = {name: by_name[name].sha256 for name in partition.shards}
        sequences = sum(by_name[name].sequences for name in partition.shards)
        derived = make_partition(
            partition_input_id(recipe.parameters, contents),
            partition.shards,
            sequences,
            partition.strategies,
            complete=partition.complete,
        )
        if derived != partition or _sequences(partition) != sequences:
            yield f"partition {partition.digest}: its digests or sequences do not follow from its shards"


def _packing_problems(recipe: Recipe) -> Iterator[str]:
    parameters, histogram = recipe.parameters, recipe.histogram
    if histogram.max_sequence_length != parameters.max_sequence_length:
        yield f"histogram: expected {parameters.max_sequence_length} counts, found {histogram.max_sequence_length}"
        return
    summed = merge_strategies(strategy for partition in recipe.partitions for strategy in partition.strategies)
    if summed != recipe.strategies:
        yield "strategies: not the sum of those of the partitions"
    check_strategies(histogram, parameters.max_sequences_per_pack, recipe.strategies)
    lower_bound = check_certificate(histogram, parameters.max_sequences_per_pack, recipe.certificate)
    yield from _statistics_problems(recipe, lower_bound)


def _statistics_problems(recipe: Recipe, lower_bound: int) -> Iterator[str]:
    derived = derived_statistics(recipe.parameters, recipe.histogram, recipe.partitions, lower_bound)
    for name, value in derived.items():
        if recipe.statistics.get(name) != value:
            yield f"statistics.{name}: expected {value}, found {recipe.statistics.get(name)}"


def _sequences(partition: Partition) -> int:
    return sum(len(strategy.lengths) * strategy.count for strategy in partition.strategies)


def dataset_problems(recipe: Recipe, contents: Sequence[tuple[str, str]]) -> list[str]:
    """How raw shards as they are now, pairs of name and SHA-256, differ from those that the recipe lists."""
    listed = {(shard.name, shard.sha256) for shard in recipe.shards}
    missing, strange = sorted(listed - set(contents)), sorted(set(contents) - listed)
    return [f"{name}: listed with SHA-256 {sha256}, not found so" for name, sha256 in missing] + [
        f"{name}: found with SHA-256 {sha256}, not listed so" for name, sha256 in strange
    ]
