"""Partitions: which raw shards are packed together.

The shards are the leaves of a binary trie over the SHA-256 of their names; a branch whose shards are stored in at most
`capacity` bytes is one partition. So a partition follows from the shards that the listing holds and from nothing that
came before: a new or changed shard touches the one partition that it falls into (which may split in two), and a removed
one at most joins its partition with a neighbour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from packing.types import RawShard

_BITS = 256


def assign_partitions(shards: Sequence[RawShard], capacity: int) -> list[tuple[RawShard, ...]]:
    """Every shard in exactly one partition of at most `capacity` stored bytes; a larger shard has one to itself.

    The shards of a partition are sorted by name, and the partitions by their first shard.
    """
    leaves = _split([(_position(shard.name), shard) for shard in shards], capacity, bit=0)
    partitions = [tuple(sorted((shard for _, shard in leaf), key=lambda shard: shard.name)) for leaf in leaves]
    return sorted(partitions, key=lambda partition: partition[0].name)


def _position(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest(), "big")


def _split(shards: list[tuple[int, RawShard]], capacity: int, bit: int) -> list[list[tuple[int, RawShard]]]:
    if not shards:
        return []
    if len(shards) == 1 or bit == _BITS or sum(shard.size for _, shard in shards) <= capacity:
        return [shards]
    halves: tuple[list[tuple[int, RawShard]], ...] = ([], [])
    for position, shard in shards:
        halves[position >> (_BITS - 1 - bit) & 1].append((position, shard))
    return [leaf for half in halves for leaf in _split(half, capacity, bit + 1)]
