"""Plan: which sequences of a partition share a pack, and in which order packs are written.

A strategy says only lengths, so sequences of equal length are interchangeable: they are dealt in random order. Where
that puts more masked tokens into a pack than it has slots for, `packing.repair` finds other sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.admission import usable
from packing.errors import VerificationError
from packing.repair import repair_masked
from packing.shuffle import permutation
from packing.types import Parameters, Partition, ShardSummary, Strategy, WritePlan, segments_of

_Ints = npt.NDArray[Any]


def plan_partition(partition: Partition, lengths: _Ints, masked: _Ints, parameters: Parameters) -> WritePlan:
    """Deal the partition's sequences, given by length and masked tokens, int32[n] each, to its packs.

    Sequences that the parameters do not allow are left out. Raises InputError if no dealing keeps every pack within
    its masked slots, VerificationError if the strategies do not hold exactly the other sequences.
    """
    allowed = np.flatnonzero(usable(lengths, masked, parameters))
    lengths, masked = lengths[allowed], masked[allowed]
    packs = _deal(partition, lengths, parameters.seed)
    packs = repair_masked(packs, lengths, masked, parameters.max_predictions_per_pack, partition)
    order = permutation(len(packs), parameters.seed, partition.input_id, "packs")
    return WritePlan(partition, np.where(packs >= 0, allowed[packs], -1)[order].astype(np.int32))


def always_fits(
    strategies: Sequence[Strategy], summaries: Sequence[ShardSummary], max_predictions_per_pack: int
) -> bool:
    """Whether any dealing at all keeps within the masked slots, told from the most masked sequence of each length."""
    most = _most_masked_by_length(summaries)
    return all(sum(most[length] for length in s.lengths) <= max_predictions_per_pack for s in strategies)


def _most_masked_by_length(summaries: Sequence[ShardSummary]) -> dict[int, int]:
    most: dict[int, int] = {}
    for segment in segments_of(summaries):
        for length, _, masked in segment.lengths:
            most[length] = max(masked, most.get(length, 0))
    return most


def _deal(partition: Partition, lengths: _Ints, seed: int) -> npt.NDArray[np.int32]:
    """Packs in the order of the strategies, -1 where one holds less; sequences of a length come in random order."""
    shuffled = permutation(len(lengths), seed, partition.input_id, "sequences")
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    sorted_lengths = lengths[by_length]
    taken: dict[int, int] = {}
    most = max(len(strategy.lengths) for strategy in partition.strategies)
    packs = np.full((partition.packs, most), -1, dtype=np.int32)
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
