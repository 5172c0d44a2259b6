"""Scan: list the raw shards below SOURCE, read each new one once, validate every record, keep what later stages need.

The index of a shard is kept below DESTINATION/index/shards, named by the shard's identity (URI, size, ETag) and the
format of the index: `<key>-NNNNN.npz` with one row per sequence of a segment, and `<key>.json` with the summary, stored
last. Neither depends on a recipe's parameters, so changing those reads no raw data again.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from packing.content import Hasher, read_content
from packing.documents import read_cached, write_cached
from packing.errors import InputError, ObjectNotFoundError, RecordError
from packing.jsonio import digest
from packing.memory import borrowed_buffer
from packing.ports import Storage
from packing.records import Stop, take_records
from packing.sequences import Sequences
from packing.spool import Spool
from packing.tfrecord import MAX_RECORD_BYTES
from packing.types import RawShard, Rejection, Segment, SegmentIndex, ShardSummary

INDEX_FORMAT = 2
SEGMENT_BYTES = MAX_RECORD_BYTES

log = logging.getLogger(__name__)

Keep = Callable[[int, Sequences], None]
"""Called with a segment's number and its sequences, which hold until the call returns."""


def read_summary(storage: Storage, shard: RawShard, *, destination: str) -> ShardSummary | None:
    """The cached summary of exactly this version of the shard, if there is one."""
    uri = f"{_index_uri(destination, shard)}.json"
    return read_cached(storage, uri, lambda document: _summary_from_json(shard, document))


def scan_shard(
    storage: Storage, shard: RawShard, *, destination: str, max_rejected: int = 0, spool: Spool | None = None
) -> ShardSummary:
    """The summary of `shard` from its cached index, or else from reading the shard and writing its index.

    Records that are no valid examples are left out, up to `max_rejected` of them; raises RecordError for the next one.
    With a `spool` the sequences are kept there for the write.
    """
    cached = read_summary(storage, shard, destination=destination)
    return cached or scan_new_shard(storage, shard, destination=destination, max_rejected=max_rejected, spool=spool)


def scan_new_shard(
    storage: Storage, shard: RawShard, *, destination: str, max_rejected: int = 0, spool: Spool | None = None
) -> ShardSummary:
    """As `scan_shard`, of a shard that is known to have no cached index."""
    uri = _index_uri(destination, shard)

    def keep(number: int, sequences: Sequences) -> None:
        rows = io.BytesIO()
        np.savez(rows, offsets=sequences.offsets, lengths=sequences.lengths, masked=sequences.masked)
        storage.write(f"{uri}-{number:05d}.npz", rows.getbuffer())
        if spool:
            spool.save(spool_name(shard, number), sequences)

    hasher = hashlib.sha256()
    segments, rejected = read_segments(storage, shard, max_rejected=max_rejected, keep=keep, hasher=hasher)
    summary = ShardSummary(shard, hasher.hexdigest(), segments, rejected)
    write_cached(storage, f"{uri}.json", asdict(replace(summary, shard=replace(shard, name=""))))
    return summary


def read_segments(
    storage: Storage,
    shard: RawShard,
    *,
    max_rejected: int = 0,
    keep: Keep | None = None,
    hasher: Hasher | None = None,
) -> tuple[tuple[Segment, ...], tuple[Rejection, ...]]:
    """Read and validate this version of a raw shard, one segment in memory at a time."""
    segments: list[Segment] = []
    rejected: list[Rejection] = []

    def on_bad(error: RecordError) -> None:
        if len(rejected) >= max_rejected:
            raise error
        rejected.append(Rejection(shard.name, error.record, error.offset, error.expected, error.found))

    first = Stop(0, 0)
    with closing(read_content(storage, shard, hasher=hasher)) as chunks, borrowed_buffer() as buffer:
        for stop in take_records(shard.uri, chunks, buffer, on_bad, segment_bytes=SEGMENT_BYTES):
            sequences = buffer.sequences()
            if keep:
                keep(len(segments), sequences)
            segments.append(_summarize(len(segments), sequences, first, stop))
            buffer.clear()
            first = stop
    return tuple(segments), tuple(rejected)


def _summarize(number: int, sequences: Sequences, first: Stop, stop: Stop) -> Segment:
    return Segment(
        number=number,
        first_record=first.record,
        records=stop.record - first.record,
        start=first.offset,
        stop=stop.offset,
        compact_bytes=len(sequences.content),
        lengths=count_lengths(sequences.lengths, sequences.masked),
    )


def count_lengths(lengths: Any, masked: Any) -> tuple[tuple[int, int, int], ...]:
    """(length, count, most masked tokens of one of them), ascending by length; of int32[n] and int32[n]."""
    found, which, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    most_masked = np.zeros(len(found), dtype=np.int32)
    np.maximum.at(most_masked, which, masked)
    return tuple(zip(found.tolist(), counts.tolist(), most_masked.tolist(), strict=True))


def load_index(storage: Storage, summary: ShardSummary, number: int, *, destination: str) -> SegmentIndex:
    """The rows of one segment of a scanned shard; the shard is scanned again if they are missing or damaged."""
    uri = f"{_index_uri(destination, summary.shard)}-{number:05d}.npz"
    try:
        return _read_rows(storage, uri)
    except (ObjectNotFoundError, InputError) as exc:
        log.warning("%s; scanning %s again", exc, summary.shard.uri)
    scan_new_shard(storage, summary.shard, destination=destination, max_rejected=summary.records)
    return _read_rows(storage, uri)


def _read_rows(storage: Storage, uri: str) -> SegmentIndex:
    content = io.BytesIO(storage.read(uri))
    try:
        with np.load(content, allow_pickle=False) as arrays:
            return SegmentIndex(arrays["offsets"], arrays["lengths"], arrays["masked"])
    except (ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile) as exc:
        raise InputError(f"{uri}: expected the rows of a segment, found {exc}; run again") from exc


def _index_uri(destination: str, shard: RawShard) -> str:
    return f"{destination}/index/shards/{_shard_key(shard)}"


def _shard_key(shard: RawShard) -> str:
    return digest([INDEX_FORMAT, shard.uri, shard.size, shard.etag])


def spool_name(shard: RawShard, number: int) -> str:
    """By which name a spool keeps a segment of this version of a raw shard."""
    return f"{_shard_key(shard)}-{number:05d}"


def _summary_from_json(shard: RawShard, document: Mapping[str, Any]) -> ShardSummary:
    return ShardSummary(
        shard=shard,
        sha256=document["sha256"],
        segments=tuple(
            Segment(**{**segment, "lengths": tuple((n, count, masked) for n, count, masked in segment["lengths"])})
            for segment in document["segments"]
        ),
        rejected=tuple(Rejection(**{**rejection, "shard": shard.name}) for rejection in document["rejected"]),
    )
