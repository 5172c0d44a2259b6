"""What a refresh comes to, and what of it is left to write: where every record is known, solved as the refresh does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packing.commit import find_written
from packing.overlay import Overlay
from packing.parallel import serial
from packing.partition import Members, find_members
from packing.solve import solve_recipe
from packing.survey import Request, Survey
from packing.types import Partition, ShardSummary, StoredShard


@dataclass(frozen=True)
class Left:
    """What there is to write: `packs` in `partitions`, from `raw_bytes` stored bytes of raw shards.

    `kept_bytes` are in packed shards that the store has already. `work` are the partitions, if all of them are known.
    """

    packs: int
    partitions: int
    raw_bytes: float
    kept_bytes: int
    work: tuple[tuple[Partition, Members], ...] = ()


@dataclass(frozen=True)
class Outlook:
    """`statistics` as in a recipe, which the refresh solves in `seconds`; `exact` if they are those of its recipe."""

    statistics: Mapping[str, Any]
    left: Left
    seconds: float
    exact: bool


def solve_known(store: Overlay, survey: Survey, request: Request) -> Outlook:
    """What the refresh comes to, as every record is known.

    A search that a time limit ended may end elsewhere the next time: then the figures are not exact.
    """
    started = time.monotonic()
    summaries = survey.whole
    recipe = solve_recipe(store, serial(store), request.destination, request.parameters, summaries, request.time_limit)
    seconds = time.monotonic() - started
    written = find_written(store, request.destination, recipe)
    by_name = {summary.shard.name: summary for summary in summaries}
    work = tuple(
        (partition, find_members(partition.shards, partition.records, by_name))
        for partition in recipe.partitions
        if partition.digest not in written
    )
    left = Left(
        packs=sum(partition.packs for partition, _ in work),
        partitions=len(work),
        raw_bytes=raw_bytes((members for _, members in work), by_name),
        kept_bytes=packed_bytes(written.values()),
        work=work,
    )
    # Solved one after the other here; the bound, which takes about as long as one partition, is not shared out.
    at_a_time = max(1, min(request.solvers, len(recipe.partitions)))
    return Outlook(recipe.statistics, left, seconds / at_a_time, exact=not recipe.statistics["time_limited"])


def raw_bytes(partitions: Iterable[Members], summaries: Mapping[str, ShardSummary]) -> float:
    """Stored bytes of raw shards that partitions are made from; of a divided shard, as large a part as they hold."""
    held = 0.0
    for members in partitions:
        for summary in members.summaries:
            total = summaries[summary.shard.name].compact_bytes
            held += summary.shard.size * (summary.compact_bytes / total if total else 1.0)
    return held


def packed_bytes(partitions: Iterable[Sequence[StoredShard]]) -> int:
    """Bytes of the packed shards of partitions."""
    return sum(stored.shard.bytes for shards in partitions for stored in shards)
