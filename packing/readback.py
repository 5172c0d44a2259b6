"""Reading raw and packed shards back for verify and audit, through protobuf objects and record by record.

Slow on purpose: about 4 thousand packs a second and core. From the code that scans and writes it takes only the chunks
of a shard's content and the framing, so what both agree on does not rest on a mistake in one of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.content import read_content
from packing.errors import ContentError, ObjectNotFoundError
from packing.example import read_pack, read_sequence
from packing.ports import Storage
from packing.reader import read_chunks
from packing.sequence_digests import Digests, as_digests, sequence_digest
from packing.tfrecord import FRAME_BYTES, HEADER_BYTES, frame_size, payload_of
from packing.types import PackedShard, RawShard, Rejection


@dataclass(frozen=True, eq=False)
class PackedContent:
    """What reading one packed shard gave.

    `stored` says what is wrong with the object as such, `problems` what with its records and packs. The digests and the
    strategies, by how often they occur, are those of the packs that can be read.
    """

    shard: PackedShard
    stored: str
    problems: tuple[str, ...]
    digests: Digests
    strategies: Counter[tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class RawContent:
    """What reading one raw shard gave; `sha256` is that of the object as it is stored.

    One row for each record that is a valid example: `records`, `offsets` int64[n], `lengths`, `masked` int32[n],
    `digests` uint64[n, 2]. `bad` are the others. `problem` says why there may be records that could not be found.
    """

    shard: RawShard
    sha256: str
    records: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    masked: npt.NDArray[np.int32]
    digests: Digests
    bad: tuple[Rejection, ...]
    problem: str

    def packable(self, max_sequence_length: int, max_predictions_per_sequence: int) -> npt.NDArray[np.bool_]:
        """Which rows these parameters allow to be packed, bool[n]."""
        allowed: npt.NDArray[np.bool_] = self.lengths <= max_sequence_length
        return allowed & (self.masked <= max_predictions_per_sequence)

    def left_out(self, max_sequence_length: int, max_predictions_per_sequence: int) -> tuple[Rejection, ...]:
        """The records that cannot be packed with these parameters, in file order."""
        expected = f"at most {max_sequence_length} tokens, at most {max_predictions_per_sequence} of them masked"
        rows = np.flatnonzero(~self.packable(max_sequence_length, max_predictions_per_sequence)).tolist()
        over = [
            Rejection(
                self.shard.name,
                int(self.records[row]),
                int(self.offsets[row]),
                expected,
                f"{self.lengths[row]} tokens, {self.masked[row]} of them masked",
            )
            for row in rows
        ]
        return tuple(sorted([*self.bad, *over], key=lambda rejection: rejection.record))


def read_packed(storage: Storage, shard: PackedShard, *, limits: Mapping[str, int]) -> PackedContent:
    """Read a packed shard, take every pack apart and assemble its sequences again.

    `limits` are L, K and P, by the names that `packing.example.read_pack` gives them.
    """
    try:
        content = storage.read(shard.uri)
    except ObjectNotFoundError as exc:
        return PackedContent(shard, str(exc), (f"{shard.uri}: not read, it is missing",), as_digests([]), Counter())
    found = hashlib.sha256(content).hexdigest()
    stored = "" if (len(content), found) == (shard.bytes, shard.sha256) else _other_bytes(shard, len(content), found)
    digests: list[bytes] = []
    strategies: Counter[tuple[int, ...]] = Counter()
    problems: list[str] = []
    try:
        for number, (offset, payload) in enumerate(read_frames([content])):
            try:
                sequences = read_pack(_intact(payload), **limits)
            except ContentError as exc:
                problems.append(f"{shard.uri}: pack {number} at offset {offset}: {exc}")
            else:
                digests.extend(sequence_digest(sequence) for sequence in sequences)
                strategies[tuple(sorted(len(sequence.tokens) for sequence in sequences))] += 1
    except ContentError as exc:
        problems.append(f"{shard.uri}: after {strategies.total()} packs: {exc}")
    return PackedContent(
        shard, stored, tuple(problems or _total_problems(shard, strategies)), as_digests(digests), strategies
    )


def _other_bytes(shard: PackedShard, size: int, sha256: str) -> str:
    return (
        f"{shard.uri}: expected {shard.bytes} bytes with SHA-256 {shard.sha256}, found {size} bytes with {sha256}; "
        "the shard was altered, refresh the dataset"
    )


def _total_problems(shard: PackedShard, strategies: Counter[tuple[int, ...]]) -> list[str]:
    expected = (shard.packs, shard.sequences, shard.tokens)
    found = (
        strategies.total(),
        sum(len(lengths) * count for lengths, count in strategies.items()),
        sum(sum(lengths) * count for lengths, count in strategies.items()),
    )
    return [] if found == expected else [f"{shard.uri}: expected (packs, sequences, tokens) {expected}, found {found}"]


def read_raw(storage: Storage, shard: RawShard) -> RawContent:
    """Read every record of a raw shard, the valid ones and the others, one chunk of it in memory at a time."""
    hasher = hashlib.sha256()
    rows: list[tuple[int, int, int, int]] = []
    digests: list[bytes] = []
    bad: list[Rejection] = []
    problem = ""
    try:
        with closing(read_content(storage, shard, hasher=hasher)) as chunks:
            for record, (offset, payload) in enumerate(read_frames(chunk.data.tobytes() for chunk in chunks)):
                try:
                    sequence = read_sequence(_intact(payload))
                except ContentError as exc:
                    bad.append(Rejection(shard.name, record, offset, exc.expected, exc.found))
                else:
                    rows.append((record, offset, len(sequence.tokens), len(sequence.masked_positions)))
                    digests.append(sequence_digest(sequence))
    except ContentError as exc:
        problem = f"{shard.uri}: after {len(rows) + len(bad)} records: {exc}"
        hasher = _hash(storage, shard)
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return RawContent(
        shard,
        hasher.hexdigest(),
        records=table[:, 0],
        offsets=table[:, 1],
        lengths=table[:, 2].astype(np.int32),
        masked=table[:, 3].astype(np.int32),
        digests=as_digests(digests),
        bad=tuple(bad),
        problem=problem,
    )


def _hash(storage: Storage, shard: RawShard) -> Any:
    hasher = hashlib.sha256()
    with closing(read_chunks(storage, shard.uri, start=0, stop=shard.size, etag=shard.etag)) as chunks:
        for chunk in chunks:
            hasher.update(chunk.data.data)
    return hasher


def read_frames(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes | ContentError]]:
    """Offset and payload of every record of a TFRecord stream, or in place of a payload what is wrong with it.

    Raises ContentError where no further record can be found.
    """
    rest, offset = b"", 0
    for piece in pieces:
        rest += piece
        start = 0
        while (size := _frame_size(rest, start)) <= len(rest) - start:
            yield offset, _payload(rest[start : start + size])
            start += size
            offset += size
        rest = rest[start:]
    if rest:
        raise ContentError("a whole record", f"{len(rest)} bytes of one at offset {offset} (the shard is cut off)")


def _frame_size(data: bytes, start: int) -> int:
    return frame_size(data[start : start + HEADER_BYTES]) if len(data) - start >= FRAME_BYTES else FRAME_BYTES


def _payload(frame: bytes) -> bytes | ContentError:
    try:
        return payload_of(frame)
    except ContentError as exc:
        return exc


def _intact(payload: bytes | ContentError) -> bytes:
    if isinstance(payload, ContentError):
        raise payload
    return payload
