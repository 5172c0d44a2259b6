from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing.errors import InputError, VerificationError
from packing.plan import plan_partition
from packing.recipe import make_partition
from packing.shuffle import permutation
from packing.types import Parameters, Partition, Strategy, WritePlan, merge_strategies


def plan(strategies: Sequence[Strategy], rows: Sequence[tuple[int, int]], parameters: Parameters) -> WritePlan:
    """The plan of the sequences of these (length, masked)."""
    table = np.array(rows, dtype=np.int32).reshape(-1, 2)
    return plan_partition(partition_of(strategies), table[:, 0], table[:, 1], parameters)


def partition_of(strategies: Sequence[Strategy]) -> Partition:
    sequences = sum(len(strategy.lengths) * strategy.count for strategy in strategies)
    return make_partition("input", ["a"], None, sequences, merge_strategies(strategies), complete=True)


@st.composite
def dealt_rows(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[Strategy]]:
    """Rows (length, masked), shuffled, and the strategies that they were dealt from."""
    packs = draw(
        st.lists(
            st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=3), min_size=1, max_size=5
        )
    )
    rows = draw(st.permutations([row for pack in packs for row in pack]))
    return list(rows), [Strategy(tuple(length for length, _ in pack), 1) for pack in packs]


def assignment_exists(rows: list[tuple[int, int]], strategies: Sequence[Strategy], limit: int) -> bool:
    """Brute force: deal the masked counts of each length to the slots of that length in every possible way."""
    slots = [(length, pack) for pack, s in enumerate(strategies) for length in s.lengths]
    by_length = {length: [m for own, m in rows if own == length] for length, _ in rows}
    orders = [set(itertools.permutations(masked)) for masked in by_length.values()]
    for choice in itertools.product(*orders):
        left = {length: list(masked) for length, masked in zip(by_length, choice, strict=True)}
        loads = Counter[int]()
        for length, pack in slots:
            loads[pack] += left[length].pop()
        if all(load <= limit for load in loads.values()):
            return True
    return False


@settings(max_examples=200)
@given(dealt_rows(), st.integers(1, 12), st.integers(0, 3))
def test_a_plan_fits_and_fails_only_if_no_assignment_exists(
    case: tuple[list[tuple[int, int]], list[Strategy]], limit: int, seed: int
) -> None:
    rows, strategies = [(length, min(masked, limit)) for length, masked in case[0]], case[1]
    if len(rows) > 8:
        return
    parameters = Parameters(
        max_sequence_length=12, max_sequences_per_pack=3, max_predictions_per_sequence=limit, seed=seed
    )
    capacity = parameters.max_predictions_per_pack
    try:
        planned = plan(strategies, rows, parameters)
    except InputError:
        assert not assignment_exists(rows, strategies, capacity)
        return
    used = planned.packs[planned.packs >= 0]
    assert sorted(used.tolist()) == list(range(len(rows)))
    packs = [[rows[i] for i in pack if i >= 0] for pack in planned.packs.tolist()]
    assert all(sum(masked for _, masked in pack) <= capacity for pack in packs)
    found = merge_strategies(Strategy(tuple(length for length, _ in pack), 1) for pack in packs)
    assert found == merge_strategies(strategies)


def test_swaps_that_get_stuck_are_solved_exactly() -> None:
    """Found by search: some of these dealings no single exchange brings under the limit of 9."""
    strategies = [Strategy((1, 2, 2), 1), Strategy((1, 1, 2), 1)]
    rows = [(1, 1), (1, 3), (1, 3), (2, 5), (2, 6), (2, 0)]
    for seed in range(40):
        parameters = Parameters(max_sequence_length=12, max_predictions_per_sequence=6, seed=seed)
        packs = plan(strategies, rows, parameters).packs.tolist()
        assert all(sum(rows[i][1] for i in pack) <= 9 for pack in packs)


def test_no_assignment_is_an_error_that_says_what_to_change() -> None:
    parameters = Parameters(max_sequence_length=4, max_sequences_per_pack=2, max_predictions_per_sequence=4)
    with pytest.raises(InputError, match=r"at most 6 masked tokens each, found that its strategies have none; raise"):
        plan([Strategy((1, 2), 1), Strategy((3,), 1)], [(1, 4), (2, 4), (3, 0)], parameters)
    with pytest.raises(InputError, match=r"at most 6 masked tokens each, found 8 of them for 1 packs; raise"):
        plan([Strategy((1, 2), 1)], [(1, 4), (2, 4)], parameters)


def test_strategies_that_do_not_match_the_sequences_are_refused() -> None:
    parameters = Parameters(max_sequence_length=4, max_sequences_per_pack=2)
    for rows in ([(1, 0)], [(1, 0), (2, 0), (2, 0)], [(1, 0), (3, 0)], []):
        with pytest.raises(VerificationError):
            plan([Strategy((1, 2), 1)], rows, parameters)


def test_the_seed_decides_the_order() -> None:
    rows = [(400, 10)] * 1000
    plans = [plan([Strategy((400,), 1000)], rows, Parameters(seed=seed)) for seed in (0, 0, 1)]
    assert np.array_equal(plans[0].packs, plans[1].packs)
    assert not np.array_equal(plans[0].packs, plans[2].packs)


def test_a_plan_is_no_wider_than_its_largest_strategy() -> None:
    """K may be in the thousands where packs hold a few sequences."""
    planned = plan(
        [Strategy((1, 2), 3), Strategy((3,), 1)],
        [(1, 0), (2, 0)] * 3 + [(3, 0)],
        Parameters(max_sequence_length=4, max_sequences_per_pack=60_000),
    )
    assert planned.packs.shape == (4, 2)


def test_sequences_over_a_limit_are_left_out() -> None:
    parameters = Parameters(max_sequence_length=4, max_sequences_per_pack=2, max_predictions_per_sequence=3)
    rows = [(5, 0), (1, 1), (2, 4), (2, 1), (1, 9)]
    assert plan([Strategy((1, 2), 1)], rows, parameters).packs.tolist() == [[1, 3]]


def test_permutations_keep_their_values() -> None:
    """The bytes of every packed dataset depend on these; a change here must raise PACKER_FORMAT."""
    assert permutation(10, 0, "input", "packs").tolist() == [7, 6, 9, 8, 3, 0, 4, 1, 5, 2]
    assert sorted(permutation(1000, 1).tolist()) == list(range(1000))
