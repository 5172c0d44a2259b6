from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing.solvers import solve
from packing.solvers.bounds import cheap_bound
from packing.solvers.check import check_certificate, check_strategies
from packing.solvers.diving import dive
from packing.solvers.effort import Effort
from packing.solvers.exact_fill import fill_exactly
from packing.solvers.knapsack import completion_steps
from packing.solvers.merging import Marks, relax
from packing.solvers.tail import pack_tail
from packing.types import Histogram, Strategy
from tests.solvers.brute_force import fewest_packs, max_sequences, small_histograms, tiny_histograms


def packed(histogram: Histogram, rest: Histogram) -> Histogram:
    return Histogram(tuple(total - left for total, left in zip(histogram.counts, rest.counts, strict=True)))


def long_histogram(seed: int, capacity: int, sequences: int) -> Histogram:
    lengths = np.random.default_rng(seed).lognormal(math.log(capacity) * 0.78, 1.0, sequences).astype(int)
    return Histogram.of_lengths(np.clip(lengths, 1, capacity), capacity)


@given(tiny_histograms, max_sequences)
def test_the_tail_search_finds_the_optimum_and_nothing_better(histogram: Histogram, k: int) -> None:
    optimum = fewest_packs(histogram.counts, k)
    found = pack_tail(histogram, k, optimum, steps=10**6)
    assert found is not None
    check_strategies(histogram, k, found)
    assert sum(strategy.count for strategy in found) <= optimum
    assert pack_tail(histogram, k, optimum - 1, steps=10**6) is None


def test_the_tail_search_gives_up_after_its_steps() -> None:
    histogram = Histogram((0, 5, 0, 5, 0, 5, 0, 5, 0, 5, 0))  # 150 tokens into 14 packs of 11: even lengths waste one
    assert pack_tail(histogram, 5, 14, steps=200) is None
    assert pack_tail(histogram, 5, 16, steps=200) is not None


@given(small_histograms, max_sequences, st.integers(0, 30), st.integers(0, 20))
def test_exact_fills_are_sound_and_account_for_the_rest(histogram: Histogram, k: int, last: int, extra: int) -> None:
    aim = -(-histogram.tokens // histogram.max_sequence_length) + extra
    partly = fill_exactly(histogram, k, aim, last_packs=last, tolerance=10**6)
    assert partly is not None
    check_strategies(packed(histogram, partly.rest), k, partly.strategies)
    assert sum(strategy.count for strategy in partly.strategies) == aim - partly.packs
    assert partly.packs <= last or not partly.rest.sequences


def test_exact_fills_waste_next_to_nothing_on_long_slots() -> None:
    histogram = long_histogram(3, 2048, 200_000)
    aim = -(-histogram.tokens // 2048)
    partly = fill_exactly(histogram, 16, aim, last_packs=100, tolerance=3)
    assert partly is not None
    assert partly.packs <= 100
    assert fill_exactly(histogram, 2, aim, last_packs=100, tolerance=3) is None


def test_exact_fills_end_when_the_aim_is_out_of_reach() -> None:
    histogram = Histogram((0, 0, 0, 0, 0, 100, 0, 0, 0, 0))  # 6 of 10 tokens, each alone
    assert fill_exactly(histogram, 3, 60, last_packs=0, tolerance=0) is None
    assert fill_exactly(histogram, 3, 100, last_packs=0, tolerance=0) is not None


@given(small_histograms, st.data())
def test_merging_rounds_lengths_up_and_splitting_refines(histogram: Histogram, data: st.DataObject) -> None:
    capacity = histogram.max_sequence_length
    inner = data.draw(st.sets(st.integers(1, capacity)))
    marks = Marks(np.array(sorted({*inner, capacity})))
    merged = marks.merge(histogram)
    assert merged.sequences == histogram.sequences
    assert all(sum(merged.counts[i:]) >= sum(histogram.counts[i:]) for i in range(capacity))
    assert {i for i, count in enumerate(merged.counts, start=1) if count} <= set(marks.lengths.tolist())
    finer = marks.split(np.arange(len(marks.lengths)))
    assert set(marks.lengths.tolist()) <= set(finer.lengths.tolist())
    assert len(finer.lengths) > len(marks.lengths) or len(marks.lengths) == capacity


@pytest.mark.parametrize(("k", "capacity", "most_marks"), [(2, 700, 200), (3, 1024, 300), (4, 640, 640)])
def test_many_lengths_are_merged_and_still_proven(k: int, capacity: int, most_marks: int) -> None:
    histogram = long_histogram(k, capacity, 20_000)
    merged = relax(histogram, k, cheap_bound(histogram, k), Effort())
    assert merged is not None
    assert np.count_nonzero(histogram.counts) > 600
    assert 128 <= len(merged.marks.lengths) <= most_marks
    assert check_certificate(histogram, k, merged.bound.certificate) == merged.bound.packs
    solution = solve(histogram, k)
    assert solution.lower_bound >= merged.bound.packs
    assert solution.gap <= 1


@settings(max_examples=50)
@given(small_histograms, max_sequences)
def test_every_dive_yields_sound_packings(histogram: Histogram, k: int) -> None:
    merged = relax(histogram, k, cheap_bound(histogram, k), Effort())
    assert merged is not None
    candidates: list[list[Strategy]] = list(dive(merged, histogram, k, merged.bound.packs, Effort()))
    assert candidates
    for candidate in candidates:
        check_strategies(histogram, k, candidate)
        assert sum(strategy.count for strategy in candidate) >= merged.bound.packs


def test_a_dive_yields_nothing_worse_after_its_aim_is_out_of_reach() -> None:
    histogram = Histogram((0, 5, 0, 5, 0, 5, 0, 5, 0, 5, 0))
    merged = relax(histogram, 5, cheap_bound(histogram, 5), Effort())
    assert merged is not None
    too_few = merged.bound.packs - 3
    packs = [sum(s.count for s in candidate) for candidate in dive(merged, histogram, 5, too_few, Effort())]
    assert min(packs) <= merged.bound.packs + 1


def test_a_deadline_in_the_past_leaves_no_relaxation() -> None:
    histogram = long_histogram(1, 512, 10_000)
    effort = Effort(deadline=time.monotonic())
    assert relax(histogram, 3, cheap_bound(histogram, 3), effort) is None
    assert effort.late
    assert effort.solves == 0


@pytest.mark.parametrize("steps", [10**6, 10**7, 3 * 10**7])
def test_a_relaxation_ends_with_its_effort_and_is_proven_so_far(steps: int) -> None:
    histogram, k = long_histogram(2, 2048, 20_000), 5
    known = cheap_bound(histogram, k)
    effort = Effort(steps)
    merged = relax(histogram, k, known, effort)
    assert effort.spent
    assert not effort.late
    one_round = completion_steps(np.arange(2049), k)
    assert steps - effort.steps <= steps + 2 * one_round
    if merged is None:
        assert steps == 10**6
    else:
        assert merged.bound.packs >= known.packs
        assert check_certificate(histogram, k, merged.bound.certificate) == merged.bound.packs


def test_more_effort_solves_more() -> None:
    histogram, k = long_histogram(2, 2048, 20_000), 5
    efforts = [Effort(steps) for steps in (10**6, 10**7, 10**8)]
    for effort in efforts:
        relax(histogram, k, cheap_bound(histogram, k), effort)
    few, more, most = (effort.solves for effort in efforts)
    assert 1 <= few < more < most
