"""What a refresh about comes to, where a sample stands for new shards that were not read to their end.

Such a shard gets an estimated summary, with as much for each of its stored bytes as the sample has. Partitions follow
from the shards' names and bytes alone, so the code that assigns them estimates which there will be. One whose members
are all known has the same input in the refresh: its answer and its packed shards are looked up in the store, and what
is there is neither solved nor written again. The sequences of all other partitions are solved as one histogram.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from packing.errors import InputError
from packing.outlook import Left, Outlook, packed_bytes, raw_bytes
from packing.parallel import StageMap
from packing.partition import Members, assign_partitions
from packing.ports import Storage
from packing.recipe import derived_statistics
from packing.scan import SEGMENT_BYTES
from packing.solve import find_solved, histogram_of, solve_histogram
from packing.survey import Request, Scanned, Survey
from packing.types import (
    Histogram,
    Parameters,
    Partition,
    RawShard,
    Segment,
    ShardSummary,
    StoredShard,
    segments_of,
)
from packing.write import read_written


@dataclass(frozen=True)
class Expected:
    """A partition that the refresh will have: its answer and its packed shards, where the store keeps them."""

    members: Members
    solved: Partition | None = None
    written: tuple[StoredShard, ...] | None = None


def estimate(lookups: StageMap, survey: Survey, request: Request) -> Outlook:
    """The figures, from the partitions that the store keeps and from the sample; what of them is left to write."""
    whole = {summary.shard.name: summary for summary in survey.whole}
    unread = [shard for shard in survey.new if shard.name not in whole]
    summaries = whole | {shard.name: stand_in(shard, survey.scanned) for shard in unread}
    members = assign_partitions(summaries.values(), request.parameters.partition_bytes)
    certain = [partition for partition in members if whole.keys() >= set(partition.names)]
    uncertain = [partition for partition in members if not whole.keys() >= set(partition.names)]
    look_up = partial(_look_up, destination=request.destination, parameters=request.parameters)
    expected = [*lookups(look_up, certain), *map(Expected, uncertain)]

    unsolved = [summary for e in expected if not e.solved for summary in e.members.summaries]
    length = request.parameters.max_sequence_length
    rest = _sum(
        histogram_of(segments_of(summary for summary in unsolved if summary.shard.name in whole), length),
        _of_unread(unread, survey.scanned, length),
    )
    return _solve(expected, summaries, rest, request)


def stand_in(shard: RawShard, scanned: Scanned) -> ShardSummary:
    """About what a scan of `shard` would give, judged by its stored bytes; every sequence counts as of length 1.

    It has about as many segments, between which a large shard is divided.
    """
    found = list(segments_of(scanned.summaries))
    factor = shard.size / scanned.sample.bytes
    content_bytes = sum(segment.stop - segment.start for segment in found) * factor
    count = max(1, math.ceil(content_bytes / SEGMENT_BYTES))
    records, sequences, compact_bytes = (
        math.ceil(total * factor / count)
        for total in (
            sum(segment.records for segment in found),
            sum(segment.sequences for segment in found),
            sum(segment.compact_bytes for segment in found),
        )
    )
    lengths = ((1, sequences, 0),) if sequences else ()
    segments = (Segment(n, n * records, records, 0, 0, compact_bytes, lengths) for n in range(count))
    return ShardSummary(shard, "", tuple(segments))


def _look_up(storage: Storage, members: Members, *, destination: str, parameters: Parameters) -> Expected:
    solved = find_solved(storage, members, destination=destination, parameters=parameters)
    return Expected(members, solved, read_written(storage, solved, destination=destination) if solved else None)


def _of_unread(unread: Sequence[RawShard], scanned: Scanned, max_sequence_length: int) -> Histogram:
    found = histogram_of(segments_of(scanned.summaries), max_sequence_length)
    return scale(found, sum(shard.size for shard in unread) / scanned.sample.bytes)


def scale(histogram: Histogram, factor: float) -> Histogram:
    """`factor` times as many sequences, rounded; each count is off by less than one from its own share."""
    exact = np.array(histogram.counts) * factor
    counts = np.floor(exact).astype(np.int64)
    left = round(histogram.sequences * factor) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return Histogram(tuple(counts.tolist()))


def _sum(a: Histogram, b: Histogram) -> Histogram:
    return Histogram(tuple(x + y for x, y in zip(a.counts, b.counts, strict=True)))


def _solve(
    expected: Sequence[Expected], summaries: dict[str, ShardSummary], rest: Histogram, request: Request
) -> Outlook:
    """Solve the `rest` beside the answers that there are, and prove a bound for all together, as a refresh does."""
    parameters = request.parameters
    answers = [e.solved for e in expected if e.solved]
    answered = segments_of(summary for e in expected if e.solved for summary in e.members.summaries)
    histogram = _sum(rest, histogram_of(answered, parameters.max_sequence_length))
    if not histogram.sequences:
        raise InputError(f"expected at least one sequence in a sample of {len(summaries)} raw shards, found none")
    solve_once = cache(partial(solve_histogram, time_limit=request.time_limit))  # in a first refresh the rest is all
    solved = [solve_once(parameters, rest)] if rest.sequences else []
    bound = solve_once(replace(parameters, solver="optimal"), histogram)
    answers.extend(partition for recipe in solved for partition in recipe.partitions)

    missing = [e for e in expected if e.written is None]
    written = [e for e in expected if e.written is not None]
    rounds = math.ceil(sum(1 for e in expected if not e.solved) / request.workers)
    return Outlook(
        derived_statistics(parameters, histogram, answers, bound.statistics["lower_bound"], rejected=0),
        Left(
            packs=sum(answer.packs for answer in answers) - sum(e.solved.packs for e in written if e.solved),
            partitions=len(missing),
            raw_bytes=raw_bytes((e.members for e in missing), summaries),
            kept_bytes=packed_bytes(e.written for e in written if e.written),
        ),
        seconds=sum(recipe.statistics["solve_seconds"] for recipe in solved) * rounds
        + bound.statistics["solve_seconds"],
        exact=False,
    )
