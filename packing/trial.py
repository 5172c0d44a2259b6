"""A trial of the write: what there is of the raw shards packed in memory, for the bytes of a pack and the pace."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

from packing.errors import InputError
from packing.outlook import Left
from packing.overlay import Overlay
from packing.partition import Members, assign_partitions, find_members
from packing.solve import solve_partition
from packing.survey import Request, Scanned, Survey, admit_by_name, scan_sample, timed
from packing.types import Parameters, Partition
from packing.write import partition_parts

Work = list[tuple[Partition, Members]]


@dataclass(frozen=True)
class Trial:
    """`packs` of `bytes`, from `raw_bytes` of raw shards in so many `seconds` from the first record to the last pack.

    `bytes_read` of raw shards were read for it, beside those of the survey; reading is part of the `seconds`.
    """

    packs: int
    bytes: int
    raw_bytes: float
    seconds: float
    bytes_read: int


def try_out(store: Overlay, survey: Survey, left: Left, request: Request) -> Trial:
    """Pack what is left to write, if all of its shards are at hand, else a sample as a refresh of it alone would.

    The sample is the survey's. If that has no sequences it is one of the known shards, within what may still be read.
    """
    scanned, bytes_read = survey.scanned, 0
    if not scanned.sequences:
        scanned = _scan_known(store, survey, request)
        bytes_read = scanned.sample.bytes_read
    at_hand = {s.shard.name: s for s in (*survey.scanned.whole, *scanned.whole)}
    at_hand |= {s.shard.name: s for s in survey.known if not s.segments}
    if left.work and all(name in at_hand for _, members in left.work for name in members.names):
        work = [(p, find_members(p.shards, p.records, at_hand)) for p, _ in left.work]
        raw_bytes = left.raw_bytes
    else:
        work = _solve_alone(store, scanned, request)
        raw_bytes = scanned.sample.bytes
    size, seconds = timed(lambda: _pack(store, work, request.parameters))
    seconds += scanned.sample.seconds * raw_bytes / scanned.sample.bytes
    return Trial(sum(partition.packs for partition, _ in work), size, raw_bytes, seconds, bytes_read)


def _scan_known(store: Overlay, survey: Survey, request: Request) -> Scanned:
    shards = [summary.shard for summary in survey.known if summary.sequences]
    scanned = scan_sample(store, shards, request, request.sample_bytes - survey.scanned.sample.bytes_read)
    return replace(scanned, summaries=tuple(admit_by_name(store, scanned.summaries, request)))


def _solve_alone(store: Overlay, scanned: Scanned, request: Request) -> Work:
    members = assign_partitions(scanned.summaries, request.parameters.partition_bytes)
    if not members:
        raise InputError(
            f"expected at least one sequence in a sample of {len(scanned.summaries)} raw shards, found none"
        )
    return [(_solve_partition(store, partition, request), partition) for partition in members]


def _solve_partition(store: Overlay, members: Members, request: Request) -> Partition:
    """Dealt among themselves, sequences may have too many masked tokens where with others they have not.

    That is for the solve of the whole to tell: here such sequences get a pack each, which fits whatever they hold.
    """
    try:
        return solve_partition(store, members, destination=request.destination, parameters=request.parameters)
    except InputError:
        single = replace(request.parameters, max_sequences_per_pack=1)
        return solve_partition(store, members, destination=request.destination, parameters=single)


def _pack(store: Overlay, work: Work, parameters: Parameters) -> int:
    """Bytes of the packed shards of these partitions."""
    size = 0
    for partition, members in work:
        with ExitStack() as borrowed:
            size += sum(len(part.content) for part in partition_parts(store, partition, members, parameters, borrowed))
    return size
