"""Choosing among sequences of equal length so that no pack holds more masked tokens than it has masked slots.

With masks drawn at a fixed rate this never happens (M = P + K leaves room for rounding), so the work is proportional to
the packs that are over the limit: first swaps with other packs, then, if those get stuck, an exact integer program
whose columns are the ways in which a strategy can be filled. Only if that has no solution is there none.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.errors import InputError
from packing.types import Partition, Strategy

MAX_FILLINGS = 200_000

_Ints = npt.NDArray[Any]


def repair_masked(packs: _Ints, lengths: _Ints, masked: _Ints, limit: int, partition: Partition) -> _Ints:
    """`packs` (int32[packs, K], -1 for none) with sequences of equal length exchanged until no pack is over `limit`.

    `lengths` and `masked` are those of the sequences. Raises InputError if no exchange can do it.
    """
    loads = _loads(packs, masked)
    if (loads <= limit).all():
        return packs
    if loads.sum() > limit * len(packs):
        raise _no_assignment(partition, limit, f"{loads.sum()} of them for {len(packs)} packs")
    swapped = _swap(packs.copy(), loads, lengths, masked, limit)
    if (_loads(swapped, masked) <= limit).all():
        return swapped
    return _assign_exactly(packs, lengths, masked, limit, partition)


def _loads(packs: _Ints, masked: _Ints) -> _Ints:
    """Masked tokens of each pack, int64[packs]."""
    loads: _Ints = np.where(packs >= 0, masked[packs], 0).sum(axis=1, dtype=np.int64)
    return loads


def _swap(packs: _Ints, loads: _Ints, lengths: _Ints, masked: _Ints, limit: int) -> _Ints:
    """Take the best single exchange for each pack over the limit, for as long as one brings that pack down."""
    for row in np.nonzero(loads > limit)[0].tolist():
        while loads[row] > limit:
            best = max(_best_exchange(packs, loads, lengths, masked, limit, row, slot) for slot in _used(packs[row]))
            gain, slot, other, other_slot = best
            if gain == 0:
                break
            packs[row, slot], packs[other, other_slot] = packs[other, other_slot], packs[row, slot]
            loads[row] -= gain
            loads[other] += gain
    return packs


def _best_exchange(
    packs: _Ints, loads: _Ints, lengths: _Ints, masked: _Ints, limit: int, row: int, slot: int
) -> tuple[int, int, int, int]:
    """(gain, slot, other row, other slot) of the exchange that takes most from `row`; gain 0 if there is none."""
    mine = packs[row, slot]
    others, other_slots = np.nonzero((packs >= 0) & (lengths[packs] == lengths[mine]))
    gains = masked[mine] - masked[packs[others, other_slots]].astype(np.int64)
    gains[loads[others] + gains > limit] = 0
    at = int(gains.argmax())
    return max(int(gains[at]), 0), slot, int(others[at]), int(other_slots[at])


def _used(pack: _Ints) -> range:
    return range(int(np.count_nonzero(pack >= 0)))


def _assign_exactly(packs: _Ints, lengths: _Ints, masked: _Ints, limit: int, partition: Partition) -> _Ints:
    """The packs, strategy by strategy, filled as an integer program says."""
    pools: dict[tuple[int, int], list[int]] = defaultdict(list)
    for sequence in range(len(lengths)):
        pools[int(lengths[sequence]), int(masked[sequence])].append(sequence)
    fillings = _fillings(partition, pools, limit)
    counts = _choose_fillings(partition.strategies, fillings, pools)
    if counts is None:
        raise _no_assignment(partition, limit, "that its strategies have none")
    assigned = np.full_like(packs, -1)
    row = 0
    for (_, classes), count in zip(fillings, counts, strict=True):
        for _ in range(count):
            assigned[row, : len(classes)] = [pools[cls].pop() for cls in classes]
            row += 1
    return assigned


def _fillings(
    partition: Partition, pools: dict[tuple[int, int], list[int]], limit: int
) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
    """All ways to fill each strategy within `limit`: (strategy number, (length, masked) of each slot)."""
    options: dict[int, list[int]] = defaultdict(list)
    for length, count in sorted(pools):
        options[length].append(count)
    fillings = []
    for number, strategy in enumerate(partition.strategies):
        groups = [
            [
                tuple((length, m) for m in chosen)
                for chosen in itertools.combinations_with_replacement(options[length], n)
            ]
            for length, n in sorted(Counter(strategy.lengths).items())
        ]
        for combination in itertools.product(*groups):
            classes = tuple(itertools.chain.from_iterable(combination))
            if sum(m for _, m in classes) <= limit:
                fillings.append((number, classes))
            if len(fillings) > MAX_FILLINGS:
                raise _no_assignment(partition, limit, f"none by exchanges, and more than {MAX_FILLINGS} ways to try")
    return fillings


def _choose_fillings(
    strategies: tuple[Strategy, ...],
    fillings: list[tuple[int, tuple[tuple[int, int], ...]]],
    pools: dict[tuple[int, int], list[int]],
) -> list[int] | None:
    """How often to use each filling so that every strategy and every sequence is used exactly; None if impossible."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csc_array

    if not fillings:
        return None
    row_of = {cls: len(strategies) + i for i, cls in enumerate(pools)}
    entries: list[tuple[int, int, int]] = []
    for column, (number, classes) in enumerate(fillings):
        entries.append((number, column, 1))
        entries.extend((row_of[cls], column, n) for cls, n in Counter(classes).items())
    rows, columns, values = zip(*entries, strict=True)
    shape = (len(strategies) + len(pools), len(fillings))
    matrix = csc_array((values, (rows, columns)), shape=shape)
    right = [strategy.count for strategy in strategies] + [len(pool) for pool in pools.values()]
    constraint = LinearConstraint(matrix, right, right)
    result = milp(np.zeros(len(fillings)), integrality=1, bounds=Bounds(0, np.inf), constraints=constraint)
    return None if result.x is None else [round(value) for value in result.x]


def _no_assignment(partition: Partition, limit: int, found: str) -> InputError:
    shards = ", ".join(partition.shards[:3]) + (", ..." if len(partition.shards) > 3 else "")
    return InputError(
        f"partition {partition.digest} ({shards}): "
        f"expected an assignment of sequences to packs with at most {limit} masked tokens each, found {found}; "
        "raise max_predictions_per_sequence or lower max_sequences_per_pack"
    )
