"""Write: assemble a partition's packs and store them as packed shards, then record their digests.

The record `index/written/<partition digest>.json` is stored after the shards, so a partition whose record and shards
are all there is complete and is not written again, and one that was interrupted is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from packing.documents import read_cached
from packing.errors import VerificationError
from packing.example import RawSequence, assemble_pack, encode_example, read_sequence
from packing.jsonio import pretty
from packing.plan import plan_partition
from packing.ports import Storage
from packing.scan import load_index
from packing.tfrecord import decompress, encode_record, read_record_at
from packing.types import PackedShard, Parameters, Partition, RawShard, ShardIndex, StoredShard, WritePlan


def write_if_missing(
    storage: Storage,
    partition: Partition,
    *,
    destination: str,
    parameters: Parameters,
    raw_shards: Mapping[str, RawShard],
) -> bool:
    """Write the partition unless the store holds it completely; whether it was written."""
    if read_written(storage, partition, destination=destination) is not None:
        return False
    write_partition(storage, partition, destination=destination, parameters=parameters, raw_shards=raw_shards)
    return True


def write_partition(
    storage: Storage,
    partition: Partition,
    *,
    destination: str,
    parameters: Parameters,
    raw_shards: Mapping[str, RawShard],
) -> tuple[StoredShard, ...]:
    """Store the packed shards of `partition`, whose raw shards are found by name in `raw_shards`.

    Raises ObjectChangedError if a raw shard is no longer the scanned version, InputError if no assignment fits the
    masked slots; either before anything is stored.
    """
    shards = [raw_shards[name] for name in partition.shards]
    indexes = [load_index(storage, shard, destination=destination) for shard in shards]
    plan = plan_partition(partition, indexes, parameters)
    sequences = _read_sequences(storage, indexes)
    written = []
    for number, (start, end) in enumerate(zip((0, *plan.part_ends), plan.part_ends, strict=False)):
        uri = f"{_folder(destination, partition)}/part-{number:05d}.tfrecord"
        written.append(_write_part(storage, uri, plan, sequences, parameters, start, end))
    _check_totals(partition, indexes, written)
    record = {"digest": partition.digest, "shards": [asdict(stored) for stored in written]}
    storage.write(_record_uri(destination, partition), pretty(record))
    return tuple(written)


def read_written(storage: Storage, partition: Partition, *, destination: str) -> tuple[StoredShard, ...] | None:
    """The packed shards of a partition that is complete in the store, or None."""
    written = read_cached(storage, _record_uri(destination, partition), _from_record)
    if written is None:
        return None
    found = {info.uri: info.etag for info in storage.list(_folder(destination, partition))}
    return written if all(found.get(stored.shard.uri) == stored.etag for stored in written) else None


def _from_record(record: Any) -> tuple[StoredShard, ...]:
    return tuple(StoredShard(PackedShard(**entry["shard"]), entry["etag"]) for entry in record["shards"])


def _read_sequences(storage: Storage, indexes: Sequence[ShardIndex]) -> list[RawSequence]:
    sequences: list[RawSequence] = []
    for index in indexes:
        data = decompress(storage.read(index.shard.uri, etag=index.shard.etag), index.shard.uri)
        rows = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
        sequences.extend(read_sequence(read_record_at(data, offset, size)) for offset, size in rows)
    return sequences


def _write_part(
    storage: Storage,
    uri: str,
    plan: WritePlan,
    sequences: Sequence[RawSequence],
    parameters: Parameters,
    start: int,
    end: int,
) -> StoredShard:
    content = bytearray()
    count = tokens = 0
    for row in plan.packs[start:end].tolist():
        pack = [sequences[i] for i in row if i >= 0]
        features = assemble_pack(
            pack,
            max_sequence_length=parameters.max_sequence_length,
            max_sequences_per_pack=parameters.max_sequences_per_pack,
            max_predictions_per_sequence=parameters.max_predictions_per_sequence,
        )
        content += encode_record(encode_example(features))
        count += len(pack)
        tokens += sum(len(sequence.tokens) for sequence in pack)
    etag = storage.write(uri, content).etag
    shard = PackedShard(uri, len(content), end - start, count, tokens, hashlib.sha256(content).hexdigest())
    return StoredShard(shard, etag)


def _check_totals(partition: Partition, indexes: Sequence[ShardIndex], written: Sequence[StoredShard]) -> None:
    expected = (
        partition.packs,
        sum(index.sequences for index in indexes),
        sum(int(index.lengths.sum()) for index in indexes),
    )
    found = tuple(sum(getattr(stored.shard, field) for stored in written) for field in ("packs", "sequences", "tokens"))
    if found != expected:
        raise VerificationError(
            f"partition {partition.digest}: expected (packs, sequences, tokens) {expected}, wrote {found}"
        )


def _folder(destination: str, partition: Partition) -> str:
    return f"{destination}/shards/{partition.digest}"


def _record_uri(destination: str, partition: Partition) -> str:
    return f"{destination}/index/written/{partition.digest}.json"
