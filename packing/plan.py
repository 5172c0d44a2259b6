"""Plan: which sequences of a partition share a pack, in which order packs are written, and where packed shards end.

A strategy says only lengths, so sequences of equal length are interchangeable: they are dealt in random order. Where
that puts more masked tokens into a pack than it has slots for, `packing.repair` finds other sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.errors import VerificationError
from packing.repair import repair_masked
from packing.shuffle import permutation
from packing.types import Parameters, Partition, ShardIndex, ShardSummary, Strategy, WritePlan

PACKED_SHARD_BYTES = 64 * 1024 * 1024

_Ints = npt.NDArray[Any]


def plan_partition(partition: Partition, indexes: Sequence[ShardIndex], parameters: Parameters) -> WritePlan:
    """Deal the partition's sequences (those of `indexes`, one shard after the other) to its packs.

    Raises InputError if no dealing keeps every pack within its masked slots, VerificationError if the strategies do
    not hold exactly the sequences of the indexes.
    """
    lengths = np.concatenate([index.lengths for index in indexes])
    masked = np.concatenate([index.masked for index in indexes])
    width = parameters.max_sequences_per_pack
    packs = _deal(partition, lengths, width, parameters.seed)
    packs = repair_masked(packs, lengths, masked, parameters.max_predictions_per_pack, partition)
    order = permutation(len(packs), parameters.seed, partition.input_id, "packs")
    return WritePlan(partition, packs[order], _part_ends(len(packs), parameters))


def always_fits(
    strategies: Sequence[Strategy], summaries: Sequence[ShardSummary], max_predictions_per_pack: int
) -> bool:
    """Whether any dealing at all keeps within the masked slots, told from the most masked sequence of each length."""
    most: Mapping[int, int] = _most_masked_by_length(summaries)
    return all(sum(most[length] for length in s.lengths) <= max_predictions_per_pack for s in strategies)


def _most_masked_by_length(summaries: Sequence[ShardSummary]) -> dict[int, int]:
    most: dict[int, int] = {}
    for summary in summaries:
        for length, _, masked in summary.lengths:
            most[length] = max(masked, most.get(length, 0))
    return most


def _deal(partition: Partition, lengths: _Ints, width: int, seed: int) -> npt.NDArray[np.int32]:
    """Packs int32[packs, width] in the order of the strategies; the sequences of each length come in random order."""
    shuffled = permutation(len(lengths), seed, partition.input_id, "sequences")
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    sorted_lengths = lengths[by_length]
    taken: dict[int, int] = {}
    packs = np.full((partition.packs, width), -1, dtype=np.int32)
    row = 0
    for strategy in partition.strategies:
        for slot, length in enumerate(strategy.lengths):
            start = taken.setdefault(length, int(np.searchsorted(sorted_lengths, length)))
            chosen = slice(start, start + strategy.count)
            if (sorted_lengths[chosen] != length).any() or chosen.stop > len(lengths):
                raise VerificationError(f"partition {partition.digest}: more sequences of length {length} than scanned")
            packs[row : row + strategy.count, slot] = by_length[chosen]
            taken[length] = chosen.stop
        row += strategy.count
    dealt = int(np.count_nonzero(packs >= 0))
    if dealt != len(lengths):
        raise VerificationError(f"partition {partition.digest}: expected {len(lengths)} sequences, dealt {dealt}")
    return packs


def _part_ends(packs: int, parameters: Parameters) -> tuple[int, ...]:
    """Row numbers that divide the packs evenly into shards of about PACKED_SHARD_BYTES."""
    slots = parameters.max_sequence_length
    bytes_per_pack = 6 * slots + 10 * parameters.max_predictions_per_pack + 8 * parameters.max_sequences_per_pack + 300
    parts = -(-packs * bytes_per_pack // PACKED_SHARD_BYTES)
    return tuple(packs * part // parts for part in range(1, parts + 1))
