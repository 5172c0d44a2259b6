"""Scan: list the raw shards below SOURCE, read each new one once, validate every record, keep what later stages need.

A shard index is two objects below DESTINATION/index, named by the shard's identity (URI, size, ETag) and the format of
the index: `<key>.npz` with one row per record, and `<key>.json` with the summary, written last. Neither depends on a
recipe's parameters, so changing those reads no raw data again.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from packing.documents import read_cached
from packing.errors import ExampleError, InputError, ObjectNotFoundError, RecordError
from packing.example import RawSequence, read_sequence
from packing.jsonio import digest, pretty
from packing.ports import Storage
from packing.tfrecord import decompress, read_records
from packing.types import Extreme, Parameters, RawShard, ShardIndex, ShardSummary

INDEX_FORMAT = 1

log = logging.getLogger(__name__)


def list_raw_shards(storage: Storage, source: str) -> list[RawShard]:
    """The raw shards below `source`, sorted by name; raises InputError if there is none.

    Names with a part that begins with `_` or `.` are left out (markers and temporary files).
    """
    prefix = source.rstrip("/") + "/"
    shards = []
    for info in storage.list(source):
        name = info.uri.removeprefix(prefix)
        if not name.endswith("/") and not any(part.startswith(("_", ".")) for part in name.split("/")):
            shards.append(RawShard(name, info.uri, info.size, info.etag))
    if not shards:
        raise InputError(f"{source}: expected raw TFRecord shards, found none; check the prefix")
    return sorted(shards, key=lambda shard: shard.name)


def scan_shard(storage: Storage, shard: RawShard, *, destination: str) -> ShardSummary:
    """The summary of `shard` from its cached index, or else from reading the shard and writing its index."""
    return read_summary(storage, shard, destination=destination) or _scan_and_save(storage, shard, destination)[0]


def read_summary(storage: Storage, shard: RawShard, *, destination: str) -> ShardSummary | None:
    """The cached summary of exactly this version of the shard, if there is one."""
    uri = _index_uri(destination, shard, "json")
    return read_cached(storage, uri, lambda document: _summary_from_json(shard, document))


def load_index(storage: Storage, shard: RawShard, *, destination: str) -> ShardIndex:
    """The per-record rows of a scanned shard; it is scanned again if they are missing or damaged."""
    uri = _index_uri(destination, shard, "npz")
    try:
        with np.load(io.BytesIO(storage.read(uri)), allow_pickle=False) as arrays:
            return ShardIndex(shard, arrays["offsets"], arrays["sizes"], arrays["lengths"], arrays["masked"])
    except ObjectNotFoundError:
        log.warning("%s: missing; scanning %s again", uri, shard.uri)
    except (ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile) as exc:
        log.warning("%s: damaged (%s); scanning %s again", uri, exc, shard.uri)
    return _scan_and_save(storage, shard, destination)[1]


def check_limits(summary: ShardSummary, parameters: Parameters) -> None:
    """Raise RecordError if a sequence of the shard is too long or has too many masked tokens for `parameters`."""
    limits = (
        (summary.longest, parameters.max_sequence_length, "tokens", "max_sequence_length"),
        (summary.most_masked, parameters.max_predictions_per_sequence, "masked tokens", "max_predictions_per_sequence"),
    )
    for extreme, limit, unit, parameter in limits:
        if extreme.value > limit:
            raise RecordError(
                summary.shard.uri,
                record=extreme.record,
                offset=extreme.offset,
                expected=f"a sequence of at most {limit} {unit}",
                found=f"{extreme.value}",
                advice=f"raise {parameter}, or make the raw data with shorter sequences",
            )


def read_sequences(data: bytes, shard: str) -> Iterator[tuple[int, int, RawSequence]]:
    """Frame offset, payload size and content of every record of an uncompressed shard; raises RecordError."""
    for record, (offset, payload) in enumerate(read_records(data, shard)):
        try:
            yield offset, len(payload), read_sequence(payload)
        except ExampleError as exc:
            raise RecordError(shard, record=record, offset=offset, expected=exc.expected, found=exc.found) from exc


def index_records(shard: RawShard, data: bytes) -> ShardIndex:
    """Validate every record of an uncompressed shard; raises RecordError at the first bad one."""
    rows = [
        (offset, size, len(sequence.tokens), len(sequence.masked_positions))
        for offset, size, sequence in read_sequences(data, shard.uri)
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return ShardIndex(shard, table[:, 0], *(table[:, column].astype(np.int32) for column in (1, 2, 3)))


def read_and_index(storage: Storage, shard: RawShard) -> tuple[ShardSummary, ShardIndex]:
    """Read and validate this version of a raw shard, keeping nothing in the store."""
    stored = storage.read(shard.uri, etag=shard.etag)
    index = index_records(shard, decompress(stored, shard.uri))
    return _summarize(index, hashlib.sha256(stored).hexdigest()), index


def _scan_and_save(storage: Storage, shard: RawShard, destination: str) -> tuple[ShardSummary, ShardIndex]:
    summary, index = read_and_index(storage, shard)
    rows = io.BytesIO()
    np.savez(rows, offsets=index.offsets, sizes=index.sizes, lengths=index.lengths, masked=index.masked)
    storage.write(_index_uri(destination, shard, "npz"), rows.getbuffer())
    storage.write(_index_uri(destination, shard, "json"), pretty(asdict(summary)))
    return summary, index


def _summarize(index: ShardIndex, sha256: str) -> ShardSummary:
    lengths, which, counts = np.unique(index.lengths, return_inverse=True, return_counts=True)
    most_masked = np.zeros(len(lengths), dtype=np.int32)
    np.maximum.at(most_masked, which, index.masked)
    return ShardSummary(
        shard=index.shard,
        sha256=sha256,
        sequences=index.sequences,
        lengths=tuple(zip(lengths.tolist(), counts.tolist(), most_masked.tolist(), strict=True)),
        longest=_extreme(index, index.lengths),
        most_masked=_extreme(index, index.masked),
    )


def _extreme(index: ShardIndex, values: np.ndarray[Any, np.dtype[np.int32]]) -> Extreme:
    if not len(values):
        return Extreme(record=0, offset=0, value=0)
    record = int(values.argmax())
    return Extreme(record=record, offset=int(index.offsets[record]), value=int(values[record]))


def _index_uri(destination: str, shard: RawShard, extension: str) -> str:
    key = digest([INDEX_FORMAT, shard.uri, shard.size, shard.etag])
    return f"{destination}/index/{key}.{extension}"


def _summary_from_json(shard: RawShard, document: Mapping[str, Any]) -> ShardSummary:
    return ShardSummary(
        shard=shard,
        sha256=document["sha256"],
        sequences=document["sequences"],
        lengths=tuple((length, count, masked) for length, count, masked in document["lengths"]),
        longest=Extreme(**document["longest"]),
        most_masked=Extreme(**document["most_masked"]),
    )
