"""What a refresh about comes to, where a sample stands for new shards that were not read to their end.

Such a shard gets an estimated summary, with as much for each of its stored bytes as the sample has. Partitions follow
from the shards' names and bytes alone, so the code that assigns them estimates which there will be. One whose members
are all known has the same input in the refresh: its answer and its packed shards are looked up in the store, and what
is there is neither solved nor written again. The sequences of all other partitions are solved as one histogram.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from packing.errors import InputError
from packing.listing import source_of
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

Statistics = Mapping[str, Any]


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
    expected = _look_up(lookups, members, whole, request)
    counted = (s for e in expected if not e.solved for s in e.members.summaries if s.shard.name in whole)
    found = _histogram(survey.scanned.summaries, request.parameters)
    factor = sum(shard.size for shard in unread) / survey.scanned.sample.bytes
    rest = _add(_histogram(counted, request.parameters), scale(found, factor))
    statistics, rest_packs, seconds = _solve(expected, rest, request, source_of(survey.shards[0]))
    missing = [e for e in expected if e.written is None]
    left = Left(
        packs=rest_packs + sum(e.solved.packs for e in missing if e.solved),
        partitions=len(missing),
        raw_bytes=raw_bytes((e.members for e in missing), summaries),
        kept_bytes=packed_bytes(e.written for e in expected if e.written),
    )
    return Outlook(statistics, left, seconds, exact=False)


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


def _look_up(
    lookups: StageMap, partitions: Sequence[Members], known: Collection[str], request: Request
) -> list[Expected]:
    """What the store keeps of each partition; there is nothing of one that has a member which is not known."""
    certain = {members.names for members in partitions if all(name in known for name in members.names)}
    look = partial(_find, destination=request.destination, parameters=request.parameters)
    return [
        *lookups(look, [members for members in partitions if members.names in certain]),
        *(Expected(members) for members in partitions if members.names not in certain),
    ]


def _find(storage: Storage, members: Members, *, destination: str, parameters: Parameters) -> Expected:
    solved = find_solved(storage, members, destination=destination, parameters=parameters)
    return Expected(members, solved, read_written(storage, solved, destination=destination) if solved else None)


def _solve(
    expected: Sequence[Expected], rest: Histogram, request: Request, source: str
) -> tuple[Statistics, int, float]:
    """Statistics of the answers that there are and that of the `rest`, with a bound for all, as a refresh proves it.

    Also the packs of the rest, and the seconds: every partition takes about as long as the rest as one histogram.
    """
    parameters = request.parameters
    answers = [e.solved for e in expected if e.solved]
    answered = (summary for e in expected if e.solved for summary in e.members.summaries)
    histogram = _add(rest, _histogram(answered, parameters))
    if not histogram.sequences:
        raise InputError(
            f"{source}: expected at least one sequence in a sample of the raw shards, found none; check the prefix"
        )
    solve_once = cache(partial(solve_histogram, time_limit=request.time_limit))  # in a first refresh the rest is all
    bound = solve_once(replace(parameters, solver="optimal"), histogram).statistics
    seconds, packs = bound["solve_seconds"], 0
    if rest.sequences:
        solved = solve_once(parameters, rest)
        answers.extend(solved.partitions)
        packs = solved.statistics["packs"]
        unsolved = sum(1 for e in expected if not e.solved)
        seconds += solved.statistics["solve_seconds"] * math.ceil(unsolved / request.solvers)
    return derived_statistics(parameters, histogram, answers, bound["lower_bound"], rejected=0), packs, seconds


def scale(histogram: Histogram, factor: float) -> Histogram:
    """`factor` times as many sequences, rounded; each count is off by less than one from its own share."""
    exact = np.array(histogram.counts) * factor
    counts = np.floor(exact).astype(np.int64)
    left = round(histogram.sequences * factor) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return Histogram(tuple(counts.tolist()))


def _add(a: Histogram, b: Histogram) -> Histogram:
    return Histogram(tuple(x + y for x, y in zip(a.counts, b.counts, strict=True)))


def _histogram(summaries: Iterable[ShardSummary], parameters: Parameters) -> Histogram:
    return histogram_of(segments_of(summaries), parameters.max_sequence_length)
