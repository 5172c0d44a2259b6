"""Write: put a partition's packs together and store them as packed shards, then record their digests.

Storing one packed shard goes on while the next is put together. The record `index/written/<partition digest>.json` is
stored after the shards, so a partition whose record and shards are all there is complete and is not written again, and
one that was interrupted is.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.assemble import assemble_packs, pack_sizes
from packing.content import read_content
from packing.documents import read_cached, write_cached
from packing.errors import ObjectChangedError, RecordError, VerificationError
from packing.memory import borrowed_arrays, borrowed_buffer
from packing.partition import Members
from packing.plan import plan_partition
from packing.ports import Storage
from packing.records import Stop, take_records
from packing.scan import spool_name
from packing.sequences import SequenceBuffer
from packing.spool import Spool
from packing.types import PackedShard, Parameters, Partition, ShardSummary, StoredShard

PACKED_SHARD_BYTES = 64 * 1024 * 1024
STORES_AT_ONCE = 2
"""Packed shards of a partition that are being stored while the next one is put together."""


@dataclass(frozen=True, eq=False)
class Part:
    """The content of one packed shard, uint8[bytes], and what it holds."""

    number: int
    content: npt.NDArray[np.uint8]
    packs: int
    sequences: int
    tokens: int


@dataclass(frozen=True)
class Written:
    """The packed shards of a partition, and whether they had to be written."""

    shards: tuple[StoredShard, ...]
    new: bool


def write_if_missing(
    storage: Storage,
    work: tuple[Partition, Members],
    *,
    destination: str,
    parameters: Parameters,
    spool: Spool | None = None,
) -> Written:
    """Write the partition unless the store holds it completely."""
    partition, members = work
    if found := read_written(storage, partition, destination=destination):
        return Written(found, new=False)
    shards = write_partition(storage, partition, members, destination=destination, parameters=parameters, spool=spool)
    return Written(shards, new=True)


def write_partition(
    storage: Storage,
    partition: Partition,
    members: Members,
    *,
    destination: str,
    parameters: Parameters,
    spool: Spool | None = None,
) -> tuple[StoredShard, ...]:
    """Store the packed shards of `partition`.

    Raises ObjectChangedError if a raw shard is no longer the scanned version, InputError if no assignment fits the
    masked slots; either before anything is stored.
    """
    folder = _folder(destination, partition)
    written: list[StoredShard] = []
    # The executor is left first: what is still being stored must not be given back.
    with ExitStack() as borrowed, ThreadPoolExecutor(STORES_AT_ONCE, thread_name_prefix="store") as executor:
        parts = partition_parts(storage, partition, members, parameters, borrowed, spool)
        storing: deque[Future[StoredShard]] = deque()
        for part in parts:
            storing.append(executor.submit(_store, storage, folder, part))
            if len(storing) > STORES_AT_ONCE:
                written.append(storing.popleft().result())
        written.extend(future.result() for future in storing)
    _check_totals(partition, members, written)
    record = {"digest": partition.digest, "shards": [asdict(stored) for stored in written]}
    write_cached(storage, _record_uri(destination, partition), record)
    return tuple(written)


def partition_parts(
    storage: Storage,
    partition: Partition,
    members: Members,
    parameters: Parameters,
    borrowed: ExitStack,
    spool: Spool | None = None,
) -> Iterator[Part]:
    """The packed shards of a partition in order, nothing stored.

    A part is valid until STORES_AT_ONCE more were given and the next is asked for, the last ones until `borrowed`,
    which gets the memory to give back, is closed.
    """
    records = sum(summary.records for summary in members.summaries)
    buffer = borrowed.enter_context(borrowed_buffer(records, members.compact_bytes))
    for summary in members.summaries:
        _read_sequences(storage, summary, buffer, spool, whole=members.records is None)
    sequences = buffer.sequences()
    plan = plan_partition(partition, sequences.lengths, sequences.masked, parameters)
    sizes = pack_sizes(sequences, plan.packs, parameters)
    ends = _part_ends(sizes)
    largest = int(max(sizes[start:end].sum() for start, end in ends))
    outputs = borrowed.enter_context(borrowed_arrays(min(len(ends), STORES_AT_ONCE + 1), largest))
    for number, (start, end) in enumerate(ends):
        packs = plan.packs[start:end]
        content = assemble_packs(sequences, packs, parameters, out=outputs[number % len(outputs)])
        held = packs[packs >= 0]
        yield Part(number, content, len(packs), len(held), int(sequences.lengths[held].sum(dtype=np.int64)))


def _read_sequences(
    storage: Storage, summary: ShardSummary, buffer: SequenceBuffer, spool: Spool | None, *, whole: bool
) -> None:
    """Append the sequences of the summary's segments to `buffer`, those that the parameters do not allow as well."""
    if not summary.segments:
        return
    names = [spool_name(summary.shard, segment.number) for segment in summary.segments]
    before = buffer.content_bytes
    if spool and all(spool.holds(name) for name in names):
        for name in names:
            spool.load(name, buffer)
    else:
        _read_again(storage, summary, buffer, whole=whole)
    found = buffer.content_bytes - before
    if found != summary.compact_bytes:
        raise ObjectChangedError(
            f"{summary.shard.uri}: expected {summary.compact_bytes} bytes without padding as scanned, found {found}; "
            "it was replaced, run again"
        )


def _read_again(storage: Storage, summary: ShardSummary, buffer: SequenceBuffer, *, whole: bool) -> None:
    first, last = summary.segments[0], summary.segments[-1]
    rejected = {rejection.offset for rejection in summary.rejected}

    def on_bad(error: RecordError) -> None:
        if error.offset not in rejected:
            raise error

    start = Stop(first.first_record, first.start)
    content = read_content(storage, summary.shard, start=first.start, stop=None if whole else last.stop)
    with closing(content) as chunks:
        for _ in take_records(summary.shard.uri, chunks, buffer, on_bad, start=start):
            pass


def _part_ends(sizes: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and stop row of each packed shard: as few of about PACKED_SHARD_BYTES as hold all, of even size."""
    ends = np.cumsum(sizes)
    parts = max(1, -(-int(ends[-1]) // PACKED_SHARD_BYTES))
    stops = [int(np.searchsorted(ends, int(ends[-1]) * part // parts)) + 1 for part in range(1, parts + 1)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def _store(storage: Storage, folder: str, part: Part) -> StoredShard:
    uri = f"{folder}/part-{part.number:05d}.tfrecord"
    sha256 = hashlib.sha256(part.content.data).hexdigest()
    etag = storage.write(uri, part.content.data).etag
    return StoredShard(
        PackedShard(uri, len(part.content), part.packs, part.sequences, part.tokens, sha256),
        etag,
    )


def _check_totals(partition: Partition, members: Members, written: list[StoredShard]) -> None:
    expected = (partition.packs, members.sequences, members.tokens)
    found = tuple(sum(getattr(stored.shard, field) for stored in written) for field in ("packs", "sequences", "tokens"))
    if found != expected:
        raise VerificationError(
            f"partition {partition.digest}: expected (packs, sequences, tokens) {expected}, wrote {found}"
        )


def read_written(storage: Storage, partition: Partition, *, destination: str) -> tuple[StoredShard, ...] | None:
    """The packed shards of a partition that is complete in the store, or None."""
    written = read_cached(storage, _record_uri(destination, partition), _from_record)
    if written is None:
        return None
    found = {info.uri: info.etag for info in storage.list(_folder(destination, partition))}
    return written if all(found.get(stored.shard.uri) == stored.etag for stored in written) else None


def _from_record(record: Any) -> tuple[StoredShard, ...]:
    return tuple(StoredShard(PackedShard(**entry["shard"]), entry["etag"]) for entry in record["shards"])


def _folder(destination: str, partition: Partition) -> str:
    return f"{destination}/shards/{partition.digest}"


def _record_uri(destination: str, partition: Partition) -> str:
    return f"{destination}/index/written/{partition.digest}.json"
