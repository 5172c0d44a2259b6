"""The recipe: what identifies it, what it states, and its JSON form.

`input_id` digests all that the packed bytes follow from and is known before solving; `recipe_id` digests `input_id`
and the answer. A partition has the same two digests for its own part, so an unchanged partition keeps its bytes.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packing.documents import read_document
from packing.errors import InputError, UsageError, VerificationError
from packing.jsonio import digest, pretty
from packing.ports import Storage
from packing.types import (
    Certificate,
    Histogram,
    ListedShard,
    Parameters,
    Partition,
    Recipe,
    Rejection,
    ShardSummary,
    Solution,
    Strategy,
    merge_strategies,
)

SCHEMA_VERSION = 1

PACKER_FORMAT = 2
"""Raised by every change that gives other packed bytes for the same input; such a version reuses nothing."""


def contents_of(summaries: Sequence[ShardSummary]) -> dict[str, str]:
    """SHA-256 by name: what of the raw shards determines the packed bytes."""
    return {summary.shard.name: summary.sha256 for summary in summaries}


def fingerprint_of(contents: Mapping[str, str]) -> str:
    """Digest of the raw shards' names and contents."""
    return digest(sorted(contents.items()))


def dataset_input_id(parameters: Parameters, contents: Mapping[str, str]) -> str:
    """Digest of the packer's format, the parameters, and the raw shards' names and contents."""
    return digest({"format": PACKER_FORMAT, "parameters": asdict(parameters), "shards": sorted(contents.items())})


def partition_input_id(
    parameters: Parameters, contents: Mapping[str, str], records: tuple[int, int] | None = None
) -> str:
    """As `dataset_input_id`, for one partition; how the others are divided does not matter to it."""
    own = {name: value for name, value in asdict(parameters).items() if name != "partition_bytes"}
    document = {"format": PACKER_FORMAT, "parameters": own, "shards": sorted(contents.items()), "records": records}
    return digest(document)


def make_partition(
    input_id: str,
    shards: Sequence[str],
    records: tuple[int, int] | None,
    sequences: int,
    strategies: tuple[Strategy, ...],
    *,
    complete: bool,
) -> Partition:
    """A solved partition of the shards of these names, named by the digest of what its packed bytes follow from."""
    own = digest({"input_id": input_id, "strategies": strategies_to_json(strategies)})
    return Partition(input_id, own, tuple(shards), records, sequences, strategies, complete)


def make_recipe(
    input_id: str,
    parameters: Parameters,
    summaries: Sequence[ShardSummary],
    histogram: Histogram,
    partitions: Sequence[Partition],
    bound: Solution,
    solve_seconds: float,
) -> Recipe:
    """The recipe of a whole dataset; `bound` is a solution of the global histogram, kept for its lower bound."""
    strategies = merge_strategies(strategy for partition in partitions for strategy in partition.strategies)
    rejected = tuple(rejection for summary in summaries for rejection in summary.rejected)
    return Recipe(
        input_id=input_id,
        recipe_id=compute_recipe_id(input_id, strategies, partitions),
        producer=producer(),
        parameters=parameters,
        fingerprint=fingerprint_of(contents_of(summaries)),
        shards=tuple(
            ListedShard(**asdict(summary.shard), sha256=summary.sha256, sequences=summary.sequences)
            for summary in summaries
        ),
        histogram=histogram,
        strategies=strategies,
        partitions=tuple(partitions),
        rejected=rejected,
        statistics={
            **derived_statistics(parameters, histogram, partitions, bound.lower_bound, len(rejected)),
            "lower_bound_method": bound.bound_method,
            "solve_seconds": round(solve_seconds, 6),
            "solve_iterations": bound.iterations,
            "time_limited": not (bound.complete and all(partition.complete for partition in partitions)),
        },
        certificate=bound.certificate,
    )


def histogram_input_id(parameters: Parameters, histogram: Histogram) -> str:
    """As `dataset_input_id`, for a histogram that names no data."""
    own = {"format": PACKER_FORMAT, "parameters": asdict(parameters), "histogram": list(histogram.counts)}
    return digest(own)


def compute_recipe_id(input_id: str, strategies: Sequence[Strategy], partitions: Sequence[Partition]) -> str:
    """SHA-256 over the canonical JSON of the three fields, in the form in which the recipe's JSON holds them."""
    return digest(
        {
            "input_id": input_id,
            "strategies": strategies_to_json(strategies),
            "partitions": [_partition_to_json(partition) for partition in partitions],
        }
    )


def derived_statistics(
    parameters: Parameters, histogram: Histogram, partitions: Sequence[Partition], lower_bound: int, rejected: int
) -> dict[str, int | float]:
    """The statistics that follow from the rest of a recipe, so that anyone can check them."""
    packs = sum(partition.packs for partition in partitions)
    slots = packs * parameters.max_sequence_length
    return {
        "sequences": histogram.sequences,
        "rejected": rejected,
        "tokens": histogram.tokens,
        "packs": packs,
        "partitions": len(partitions),
        "lower_bound": lower_bound,
        "gap": packs - lower_bound,
        "packing_efficiency": histogram.tokens / slots,
        "packing_factor": histogram.sequences / packs,
        "packing_factor_upper_bound": histogram.sequences / lower_bound,
        "padding_tokens": slots - histogram.tokens,
        "padding_tokens_unpacked": histogram.sequences * parameters.max_sequence_length - histogram.tokens,
    }


def producer() -> dict[str, str]:
    """The software that made a recipe: version, source commit and digest of the lock file, `unknown` if not at hand."""
    root = Path(__file__).resolve().parent.parent
    lock = root / "requirements.lock"
    return {
        "version": version("stowage"),
        "commit": _source_commit(root),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "unknown",
    }


def _source_commit(root: Path) -> str:
    if not (root / ".git").exists():
        return "unknown"
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def strategies_to_json(strategies: Sequence[Strategy]) -> list[dict[str, Any]]:
    """Strategies as recipes hold them."""
    return [{"lengths": list(strategy.lengths), "count": strategy.count} for strategy in strategies]


def strategies_from_json(document: Sequence[Mapping[str, Any]]) -> tuple[Strategy, ...]:
    """The reverse of `strategies_to_json`."""
    return tuple(Strategy(tuple(entry["lengths"]), entry["count"]) for entry in document)


def _partition_to_json(partition: Partition) -> dict[str, Any]:
    lists = {
        "shards": list(partition.shards),
        "records": list(partition.records) if partition.records else None,
        "strategies": strategies_to_json(partition.strategies),
    }
    return {**asdict(partition), **lists}


def _partition_from_json(document: Mapping[str, Any]) -> Partition:
    records = document["records"]
    fields = {
        "shards": tuple(document["shards"]),
        "records": None if records is None else (records[0], records[1]),
        "strategies": strategies_from_json(document["strategies"]),
    }
    return Partition(**{**document, **fields})


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """The document that is stored and tracked (DESIGN: Recipe)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "input_id": recipe.input_id,
        "recipe_id": recipe.recipe_id,
        "producer": dict(recipe.producer),
        "parameters": asdict(recipe.parameters),
        "dataset": {"fingerprint": recipe.fingerprint, "shards": [asdict(shard) for shard in recipe.shards]},
        "histogram": {
            "max_sequence_length": recipe.histogram.max_sequence_length,
            "counts": list(recipe.histogram.counts),
        },
        "strategies": strategies_to_json(recipe.strategies),
        "partitions": [_partition_to_json(partition) for partition in recipe.partitions],
        "rejected": [asdict(rejection) for rejection in recipe.rejected],
        "statistics": dict(recipe.statistics),
        "certificate": {
            "prices": list(recipe.certificate.prices),
            "best_pack_value": recipe.certificate.best_pack_value,
        },
    }


def recipe_from_json(document: Mapping[str, Any], uri: str) -> Recipe:
    """Parse a recipe and check that it is the one that its `recipe_id` names.

    Raises InputError if it is not a recipe, VerificationError if it was altered.
    """
    try:
        if document["schema_version"] != SCHEMA_VERSION:
            raise InputError(f"{uri}: expected schema_version {SCHEMA_VERSION}, found {document['schema_version']!r}")
        recipe = Recipe(
            input_id=document["input_id"],
            recipe_id=document["recipe_id"],
            producer=document["producer"],
            parameters=Parameters(**document["parameters"]),
            fingerprint=document["dataset"]["fingerprint"],
            shards=tuple(ListedShard(**shard) for shard in document["dataset"]["shards"]),
            histogram=Histogram(tuple(document["histogram"]["counts"])),
            strategies=strategies_from_json(document["strategies"]),
            partitions=tuple(_partition_from_json(partition) for partition in document["partitions"]),
            rejected=tuple(Rejection(**rejection) for rejection in document["rejected"]),
            statistics=document["statistics"],
            certificate=Certificate(
                tuple(document["certificate"]["prices"]), document["certificate"]["best_pack_value"]
            ),
        )
        expected = compute_recipe_id(recipe.input_id, recipe.strategies, recipe.partitions)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as exc:
        raise InputError(f"{uri}: not a recipe ({type(exc).__name__}: {exc}); check the URI") from exc
    if recipe.recipe_id != expected:
        raise VerificationError(
            f"{uri}: expected recipe_id {expected} from its strategies and partitions, found {recipe.recipe_id}; "
            "the recipe was altered, refresh the dataset"
        )
    return recipe


def recipe_uri(destination: str, recipe_id: str) -> str:
    """Where a destination keeps a recipe."""
    return f"{destination}/recipes/{recipe_id}.json"


def read_recipe(storage: Storage, uri: str) -> Recipe:
    """The recipe stored at `uri`."""
    return recipe_from_json(read_document(storage, uri, "recipe"), uri)


def recipe_bytes(recipe: Recipe) -> bytes:
    """The recipe as it is stored and as MLflow shows it."""
    return pretty(recipe_to_json(recipe))
