"""Partitions: which raw shards, or which records of a large one, are packed together.

The shards are the leaves of a binary trie over the SHA-256 of their names; a branch whose shards hold at most
`capacity` bytes of sequences is one partition. So a partition follows from the shards that there are and from nothing
that came before: a new or changed shard touches the one partition that it falls into (which may split in two), and a
removed one at most joins its partition with a neighbour. A shard above the capacity is divided between its segments and
shares a partition with no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from packing.types import Segment, ShardSummary

_BITS = 256


@dataclass(frozen=True)
class Members:
    """What one partition is made of: summaries of its shards, sorted by name, with only its own segments.

    `records` is the range of records of the one shard that is divided, or None.
    """

    summaries: tuple[ShardSummary, ...]
    records: tuple[int, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(summary.shard.name for summary in self.summaries)

    @property
    def sequences(self) -> int:
        return sum(summary.sequences for summary in self.summaries)

    @property
    def tokens(self) -> int:
        return sum(summary.tokens for summary in self.summaries)

    @property
    def compact_bytes(self) -> int:
        return sum(summary.compact_bytes for summary in self.summaries)


def assign_partitions(summaries: Iterable[ShardSummary], capacity: int) -> list[Members]:
    """Every sequence in exactly one partition; partitions without any are left out.

    A partition holds at most `capacity` bytes of sequences, or one segment. They are sorted by their first shard.
    """
    large: list[ShardSummary] = []
    small: list[ShardSummary] = []
    for summary in summaries:
        (large if summary.compact_bytes > capacity else small).append(summary)
    leaves = _split([(_position(summary.shard.name), summary) for summary in small], capacity, bit=0)
    partitions = [Members(tuple(sorted((s for _, s in leaf), key=lambda s: s.shard.name))) for leaf in leaves]
    partitions.extend(part for summary in large for part in _divide(summary, capacity))
    partitions.sort(key=lambda members: (members.names[0], members.records or (0, 0)))
    return [members for members in partitions if members.sequences]


def find_members(
    names: Sequence[str], records: tuple[int, int] | None, summaries: Mapping[str, ShardSummary]
) -> Members:
    """What a partition of these shards, or of these records of one shard, is made of; summaries by name."""
    if records is None:
        return Members(tuple(summaries[name] for name in names))
    return _restrict(summaries[names[0]], records)


def _position(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest(), "big")


def _split(summaries: list[tuple[int, ShardSummary]], capacity: int, bit: int) -> list[list[tuple[int, ShardSummary]]]:
    if not summaries:
        return []
    if len(summaries) == 1 or bit == _BITS or sum(summary.compact_bytes for _, summary in summaries) <= capacity:
        return [summaries]
    halves: tuple[list[tuple[int, ShardSummary]], ...] = ([], [])
    for position, summary in summaries:
        halves[position >> (_BITS - 1 - bit) & 1].append((position, summary))
    return [leaf for half in halves for leaf in _split(half, capacity, bit + 1)]


def _divide(summary: ShardSummary, capacity: int) -> list[Members]:
    """Runs of segments of at most `capacity` bytes (or one segment), about as large as one another."""
    share = summary.compact_bytes / -(-summary.compact_bytes // capacity)
    runs: list[list[Segment]] = [[]]
    held = in_run = 0
    for segment in summary.segments:
        if runs[-1] and (held >= share * len(runs) or in_run + segment.compact_bytes > capacity):
            runs.append([])
            in_run = 0
        runs[-1].append(segment)
        held += segment.compact_bytes
        in_run += segment.compact_bytes
    return [_restrict(summary, (run[0].first_record, run[-1].stop_record)) for run in runs]


def _restrict(summary: ShardSummary, records: tuple[int, int]) -> Members:
    first, stop = records
    segments = tuple(s for s in summary.segments if first <= s.first_record and s.stop_record <= stop)
    rejected = tuple(r for r in summary.rejected if first <= r.record < stop)
    return Members((replace(summary, segments=segments, rejected=rejected),), records)
