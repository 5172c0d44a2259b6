"""Frozen values that cross stages, in the order in which the data flows. Imports nothing local but the errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.errors import UsageError

SOLVERS = ("optimal", "nnls", "spfhp", "lpfhp")
PARTITION_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Parameters:
    """What a user decides about a packed dataset; refused here, before any work, if it cannot work.

    `partition_bytes` bounds the content, without padding, of what is packed together, and with it a task's memory.
    """

    max_sequence_length: int = 512
    max_sequences_per_pack: int = 3
    max_predictions_per_sequence: int = 76
    solver: str = "optimal"
    seed: int = 0
    partition_bytes: int = PARTITION_BYTES

    def __post_init__(self) -> None:
        limits = {
            "max_sequence_length": (1, 65536),
            "max_sequences_per_pack": (1, 65536),
            "max_predictions_per_sequence": (1, 65536),
            "seed": (0, 2**63 - 1),
            "partition_bytes": (1, 2**63 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UsageError(f"{name}: expected an integer from {low} to {high}, got {value!r}")
        if self.solver not in SOLVERS:
            raise UsageError(f"solver: expected one of {', '.join(SOLVERS)}, got {self.solver!r}")

    @property
    def max_predictions_per_pack(self) -> int:
        """M = P + K, the masked slots of a pack."""
        return self.max_predictions_per_sequence + self.max_sequences_per_pack


@dataclass(frozen=True)
class RawShard:
    """One raw TFRecord object as listed: `name` is its key below SOURCE, `etag` its version in the store."""

    name: str
    uri: str
    size: int
    etag: str


@dataclass(frozen=True)
class Rejection:
    """One record that was left out, as far as the user allows it: what was expected of it and what was found.

    `shard` is the raw shard's name, `offset` that of the record's frame in the uncompressed shard.
    """

    shard: str
    record: int
    offset: int
    expected: str
    found: str


@dataclass(frozen=True)
class Segment:
    """A run of whole records of a raw shard, the unit in which its index is kept and in which a large shard is divided.

    `number` counts the shard's segments from 0. `start` and `stop` are byte offsets in the uncompressed shard,
    `compact_bytes` is the size of its sequences without padding (`packing.sequences`), `lengths` are (length, count,
    most masked tokens of one of them), ascending by length.
    """

    number: int
    first_record: int
    records: int
    start: int
    stop: int
    compact_bytes: int
    lengths: tuple[tuple[int, int, int], ...]

    @property
    def sequences(self) -> int:
        return sum(count for _, count, _ in self.lengths)

    @property
    def tokens(self) -> int:
        return sum(length * count for length, count, _ in self.lengths)

    @property
    def stop_record(self) -> int:
        return self.first_record + self.records


@dataclass(frozen=True, eq=False)
class SegmentIndex:
    """The sequences of a segment, in file order.

    `offsets` int64[n]: byte offset of the record's frame in the uncompressed shard; `lengths` int32[n]: real tokens;
    `masked` int32[n]: masked tokens.
    """

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    masked: npt.NDArray[np.int32]


@dataclass(frozen=True)
class ShardSummary:
    """What a scan learns of one raw shard; `sha256` digests the object's stored bytes.

    records = sequences + rejected, here and in every sum of summaries.
    """

    shard: RawShard
    sha256: str
    segments: tuple[Segment, ...]
    rejected: tuple[Rejection, ...] = ()

    @property
    def sequences(self) -> int:
        return sum(segment.sequences for segment in self.segments)

    @property
    def records(self) -> int:
        return sum(segment.records for segment in self.segments)

    @property
    def tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)

    @property
    def compact_bytes(self) -> int:
        return sum(segment.compact_bytes for segment in self.segments)


def segments_of(summaries: Iterable[ShardSummary]) -> Iterator[Segment]:
    """All segments of some shards."""
    return (segment for summary in summaries for segment in summary.segments)


@dataclass(frozen=True)
class Histogram:
    """Sequence counts by length: `counts[i]` sequences have length `i + 1`; `len(counts)` is max_sequence_length."""

    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.counts:
            raise UsageError("histogram: expected at least one count, got none")
        for length, count in enumerate(self.counts, start=1):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise UsageError(f"histogram: expected a count >= 0 for length {length}, got {count!r}")

    @classmethod
    def of_lengths(cls, lengths: Iterable[int] | npt.NDArray[Any], max_sequence_length: int) -> Histogram:
        """Count `lengths`; raises UsageError for a length outside 1..max_sequence_length."""
        array = np.asarray(lengths, dtype=np.int64)
        if array.size and not (array.min() >= 1 and array.max() <= max_sequence_length):
            raise UsageError(f"lengths: expected 1..{max_sequence_length}, got {array.min()}..{array.max()}")
        counts = np.bincount(array, minlength=max_sequence_length + 1)[1:]
        return cls(tuple(int(count) for count in counts))

    @property
    def max_sequence_length(self) -> int:
        return len(self.counts)

    @property
    def sequences(self) -> int:
        return sum(self.counts)

    @property
    def tokens(self) -> int:
        return sum(length * count for length, count in enumerate(self.counts, start=1))


@dataclass(frozen=True, order=True)
class Strategy:
    """`count` packs that each hold sequences of exactly these `lengths` (ascending)."""

    lengths: tuple[int, ...]
    count: int


def merge_strategies(strategies: Iterable[Strategy]) -> tuple[Strategy, ...]:
    """The canonical form: lengths ascending within a strategy, equal ones merged, empty ones dropped, sorted."""
    counts: Counter[tuple[int, ...]] = Counter()
    for strategy in strategies:
        counts[tuple(sorted(strategy.lengths))] += strategy.count
    return tuple(Strategy(lengths, count) for lengths, count in sorted(counts.items()) if count)


@dataclass(frozen=True)
class Certificate:
    """A proof of a lower bound that anyone checks in milliseconds.

    `prices[i]` is the integer price of a sequence of length `i + 1`. No pack of at most K sequences and L tokens is
    worth more than `best_pack_value`, so every solution has at least `ceil(sum(counts x prices) / best_pack_value)`
    packs (weak duality of the cutting-stock linear program, Gilmore and Gomory 1961).
    """

    prices: tuple[int, ...]
    best_pack_value: int


@dataclass(frozen=True)
class Solution:
    """A solver's answer for one histogram. `complete` is False when a time limit ended the search."""

    strategies: tuple[Strategy, ...]
    lower_bound: int
    certificate: Certificate
    bound_method: str
    iterations: int
    seconds: float
    complete: bool = True

    @property
    def packs(self) -> int:
        return sum(strategy.count for strategy in self.strategies)

    @property
    def gap(self) -> int:
        return self.packs - self.lower_bound


@dataclass(frozen=True)
class Partition:
    """What is packed on its own: whole raw shards (`shards`, names below SOURCE, sorted) and their strategies.

    A part of a large shard names that shard and the range of its `records`, first and stop. `input_id` digests what
    the strategies are solved from; `digest` digests that and the strategies, hence the packed bytes, and names the
    folder of the partition's packed shards. `complete` is False if a time limit ended the search for strategies.
    """

    input_id: str
    digest: str
    shards: tuple[str, ...]
    records: tuple[int, int] | None
    sequences: int
    strategies: tuple[Strategy, ...]
    complete: bool = True

    @property
    def packs(self) -> int:
        return sum(strategy.count for strategy in self.strategies)


@dataclass(frozen=True)
class ListedShard:
    """A raw shard as a recipe lists it, for auditors: where it was, which version, and what of it was packed."""

    name: str
    uri: str
    size: int
    etag: str
    sha256: str
    sequences: int


@dataclass(frozen=True)
class Recipe:
    """The solved answer for one dataset; immutable and content-addressed. JSON form in `packing.recipe`."""

    input_id: str
    recipe_id: str
    producer: Mapping[str, str]
    parameters: Parameters
    fingerprint: str
    shards: tuple[ListedShard, ...]
    histogram: Histogram
    strategies: tuple[Strategy, ...]
    partitions: tuple[Partition, ...]
    rejected: tuple[Rejection, ...]
    statistics: Mapping[str, Any]
    certificate: Certificate


@dataclass(frozen=True, eq=False)
class WritePlan:
    """Which sequences share a pack, for one partition.

    `packs` int32[packs, k]: rows of the partition's sequences (those of its shards, one shard after the other), -1
    where a pack holds fewer than the k of the largest strategy; they stand in the order in which they are written.
    """

    partition: Partition
    packs: npt.NDArray[np.int32]


@dataclass(frozen=True)
class PackedShard:
    """One written TFRecord object."""

    uri: str
    bytes: int
    packs: int
    sequences: int
    tokens: int
    sha256: str


@dataclass(frozen=True)
class StoredShard:
    """A packed shard and the version of it that was stored, by which a later refresh knows it again."""

    shard: PackedShard
    etag: str


@dataclass(frozen=True)
class Manifest:
    """What a packed dataset consists of; the dataset exists when this does. JSON form in `packing.manifest`."""

    recipe_id: str
    max_sequence_length: int
    max_sequences_per_pack: int
    max_predictions_per_sequence: int
    shards: tuple[PackedShard, ...]

    @property
    def packs(self) -> int:
        return sum(shard.packs for shard in self.shards)

    @property
    def sequences(self) -> int:
        return sum(shard.sequences for shard in self.shards)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)
