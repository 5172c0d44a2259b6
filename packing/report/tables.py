"""The recipe as tables, from which figures, the page and MLflow's comparisons of runs are made.

Nothing is rounded and nothing is left out of a sum, so every table adds up to the recipe's statistics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from packing.ports import Table
from packing.types import Recipe

BUCKETS = 16
TOP = 20


def recipe_tables(recipe: Recipe, reused: Collection[str]) -> dict[str, Table]:
    """All tables by name; `reused` are the digests of the partitions that the store held before."""
    return {
        "length_buckets": length_buckets(recipe),
        "pack_composition": pack_composition(recipe),
        "padding": padding(recipe),
        "top_strategies": top_strategies(recipe),
        "partitions": partitions(recipe, reused),
        "raw_shards": raw_shards(recipe),
        "rejected": rejected(recipe),
    }


def length_buckets(recipe: Recipe) -> Table:
    """Sequences and tokens by length, in at most 16 buckets of equal width."""
    counts = recipe.histogram.counts
    width = -(-len(counts) // BUCKETS)
    rows = []
    for start in range(0, len(counts), width):
        own = counts[start : start + width]
        tokens = sum(length * count for length, count in enumerate(own, start=start + 1))
        rows.append((start + 1, start + len(own), sum(own), tokens, sum(own) / recipe.histogram.sequences))
    return Table(("shortest", "longest", "sequences", "tokens", "share_of_sequences"), tuple(rows))


def pack_composition(recipe: Recipe) -> Table:
    """Packs by the number of their sequences."""
    slots = recipe.parameters.max_sequence_length
    packs: dict[int, int] = defaultdict(int)
    free: dict[int, int] = defaultdict(int)
    for strategy in recipe.strategies:
        packs[len(strategy.lengths)] += strategy.count
        free[len(strategy.lengths)] += strategy.count * (slots - sum(strategy.lengths))
    rows = ((size, packs[size], size * packs[size], free[size], packs[size] / _packs(recipe)) for size in sorted(packs))
    return Table(("sequences_per_pack", "packs", "sequences", "padding_tokens", "share_of_packs"), tuple(rows))


def padding(recipe: Recipe) -> Table:
    """Where the remaining padding sits: packs by their empty slots (none, 1, 2 to 3, 4 to 7, ...)."""
    slots = recipe.parameters.max_sequence_length
    packs: dict[int, int] = defaultdict(int)
    free: dict[int, int] = defaultdict(int)
    for strategy in recipe.strategies:
        empty = slots - sum(strategy.lengths)
        packs[empty.bit_length()] += strategy.count
        free[empty.bit_length()] += strategy.count * empty
    total = max(1, sum(free.values()))
    rows = ((2**bits // 2, 2**bits - 1, packs[bits], free[bits], free[bits] / total) for bits in range(max(packs) + 1))
    return Table(("fewest_empty", "most_empty", "packs", "padding_tokens", "share_of_padding"), tuple(rows))


def top_strategies(recipe: Recipe) -> Table:
    """The strategies of most packs."""
    slots = recipe.parameters.max_sequence_length
    largest = sorted(recipe.strategies, key=lambda strategy: (-strategy.count, strategy.lengths))[:TOP]
    rows = (
        (
            " + ".join(map(str, strategy.lengths)),
            len(strategy.lengths),
            strategy.count,
            strategy.count / _packs(recipe),
            slots - sum(strategy.lengths),
        )
        for strategy in largest
    )
    return Table(("lengths", "sequences", "packs", "share_of_packs", "empty_slots"), tuple(rows))


def partitions(recipe: Recipe, reused: Collection[str]) -> Table:
    """What is packed on its own, and whether the store held it already."""
    rows = (
        (
            partition.digest,
            len(partition.shards),
            "all" if partition.records is None else f"{partition.records[0]} to {partition.records[1] - 1}",
            partition.sequences,
            partition.packs,
            len(partition.strategies),
            "reused" if partition.digest in reused else "written",
        )
        for partition in recipe.partitions
    )
    return Table(
        ("partition", "raw_shards", "records", "sequences", "packs", "strategies", "packed_shards"), tuple(rows)
    )


def raw_shards(recipe: Recipe) -> Table:
    """The raw shards as the recipe lists them."""
    rows = ((shard.uri, shard.size, shard.sequences, shard.etag, shard.sha256) for shard in recipe.shards)
    return Table(("uri", "bytes", "sequences", "etag", "sha256"), tuple(rows))


def rejected(recipe: Recipe) -> Table:
    """The records that are not packed, and why."""
    rows = ((one.shard, one.record, one.offset, one.expected, one.found) for one in recipe.rejected)
    return Table(("shard", "record", "offset", "expected", "found"), tuple(rows))


def _packs(recipe: Recipe) -> int:
    return sum(strategy.count for strategy in recipe.strategies)
