"""What a dry run looks at: the shard indexes that there are, and a sample of the raw shards that have none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from packing.admission import admit
from packing.overlay import Overlay
from packing.parallel import StageMap
from packing.sample import Sample, take_sample
from packing.scan import read_summary, scan_new_shard
from packing.types import Parameters, RawShard, ShardSummary

Value = TypeVar("Value")


@dataclass(frozen=True)
class Request:
    """The refresh that is to be foreseen, from at most `sample_bytes` of raw data.

    It solves so many partitions at a time as there are `solvers`.
    """

    destination: str
    parameters: Parameters
    solvers: int
    max_rejected: int
    time_limit: float | None
    sample_bytes: int


@dataclass(frozen=True)
class Scanned:
    """A sample, and the summaries of its shards as they stand in the overlay; scanning them takes `seconds`."""

    sample: Sample
    summaries: tuple[ShardSummary, ...]
    seconds: float

    @property
    def whole(self) -> list[ShardSummary]:
        """Of the shards that are there to the end."""
        return [summary for summary in self.summaries if summary.shard.name not in self.sample.cut]

    @property
    def sequences(self) -> int:
        return sum(summary.sequences for summary in self.summaries)


@dataclass(frozen=True)
class Survey:
    """What is known of the raw shards: the summaries of those with an index, and a sample of the `new` ones without.

    The summaries are those of `packing.admission`.
    """

    shards: tuple[RawShard, ...]
    new: tuple[RawShard, ...]
    known: tuple[ShardSummary, ...]
    scanned: Scanned

    @property
    def exact(self) -> bool:
        """Whether every record is known."""
        return self.scanned.sample.whole

    @property
    def bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    @property
    def new_bytes(self) -> int:
        return sum(shard.size for shard in self.new)

    @property
    def sampled_bytes(self) -> int:
        return self.bytes - self.new_bytes + self.scanned.sample.bytes

    @property
    def whole(self) -> list[ShardSummary]:
        """Of the shards of which every record is known, sorted by name."""
        return sorted([*self.known, *self.scanned.whole], key=lambda summary: summary.shard.name)


def look(store: Overlay, lookups: StageMap, shards: Sequence[RawShard], request: Request) -> Survey:
    """Read the indexes of `shards`, and a sample of those without one; fails where the refresh's scan would."""
    cached = list(lookups(partial(read_summary, destination=request.destination), shards))
    new = tuple(shard for shard, summary in zip(shards, cached, strict=True) if summary is None)
    scanned = scan_sample(store, new, request, request.sample_bytes)
    found = [*(summary for summary in cached if summary), *scanned.summaries]
    admitted = admit_by_name(store, found, request)
    sampled = {shard.name for shard in new}
    return Survey(
        shards=tuple(shards),
        new=new,
        known=tuple(summary for summary in admitted if summary.shard.name not in sampled),
        scanned=replace(scanned, summaries=tuple(s for s in admitted if s.shard.name in sampled)),
    )


def scan_sample(store: Overlay, shards: Sequence[RawShard], request: Request, limit: int) -> Scanned:
    """Scan a sample of at most `limit` bytes of `shards`."""
    sample = take_sample(store, shards, limit, request.parameters.seed)
    scan = partial(scan_new_shard, store, destination=request.destination, max_rejected=request.max_rejected)
    summaries, seconds = timed(lambda: tuple(scan(shard) for shard in sample.shards))
    return Scanned(sample, summaries, seconds)


def admit_by_name(store: Overlay, summaries: Sequence[ShardSummary], request: Request) -> list[ShardSummary]:
    """The summaries in the order in which a refresh admits them, without what the parameters do not allow."""
    ordered = sorted(summaries, key=lambda summary: summary.shard.name)
    return admit(store, ordered, request.parameters, destination=request.destination, max_rejected=request.max_rejected)


def timed(work: Callable[[], Value]) -> tuple[Value, float]:
    """What `work` gives, and the seconds that it takes when its machine code is there and its memory in use."""
    work()
    started = time.monotonic()
    return work(), time.monotonic() - started
