from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing.errors import UsageError
from packing.solvers import lpfhp, nnls, spfhp
from packing.solvers.check import check_strategies
from packing.solvers.filling import fill
from packing.types import Histogram, Strategy
from tests.solvers.brute_force import max_sequences, small_histograms

HISTOGRAMS = Path(__file__).parents[2].parent / "shared" / "data" / "histograms"


def wikipedia() -> Histogram:
    path = HISTOGRAMS / "wikipedia_bert_512.json"
    if not path.exists():
        pytest.skip("no published histograms here")
    return Histogram(tuple(json.loads(path.read_text())["counts"]))


def number_of_packs(strategies: list[Strategy]) -> int:
    return sum(strategy.count for strategy in strategies)


@given(small_histograms, max_sequences)
def test_the_histogram_heuristics_place_every_sequence_once(histogram: Histogram, k: int) -> None:
    check_strategies(histogram, k, spfhp.pack(histogram, k))
    check_strategies(histogram, k, lpfhp.pack(histogram, k))


@settings(max_examples=25)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=20).filter(any), st.integers(1, 4))
def test_least_squares_places_every_sequence_once(counts: list[int], k: int) -> None:
    histogram = Histogram(tuple(counts))
    check_strategies(histogram, k, nnls.pack(histogram, k))


def test_counts_beyond_64_bits_are_packed_exactly() -> None:
    histogram = Histogram((0, 0, 10**20, 0, 0, 10**20 + 1, 0, 0, 0))
    for solver in (spfhp, lpfhp):
        strategies = solver.pack(histogram, 2)
        check_strategies(histogram, 2, strategies)
        assert number_of_packs(strategies) == 10**20 + 1


def test_best_fit_and_worst_fit_differ_as_they_should() -> None:
    histogram = Histogram((0, 1, 1, 1, 0, 0, 1, 0, 0, 0))  # 7, 4, 3, 2 into 10
    assert sorted(s.lengths for s in lpfhp.pack(histogram, 3)) == [(4, 2), (7, 3)]
    assert sorted(s.lengths for s in spfhp.pack(histogram, 3)) == [(4, 3, 2), (7,)]


def test_least_squares_refuses_what_it_cannot_enumerate() -> None:
    with pytest.raises(UsageError, match="solver nnls: expected at most 65536 strategies of up to 4 lengths"):
        nnls.pack(Histogram((1,) * 512), 4)


@pytest.mark.parametrize(
    ("k", "shortest_first", "longest_first"), [(3, 9_094_695, 9_090_154), (12, 8_166_708, 8_149_619)]
)
def test_the_published_figures_are_met(k: int, shortest_first: int, longest_first: int) -> None:
    assert number_of_packs(spfhp.pack(wikipedia(), k)) == shortest_first
    assert number_of_packs(lpfhp.pack(wikipedia(), k)) == longest_first


@pytest.mark.slow
def test_least_squares_is_as_good_as_published() -> None:
    strategies = nnls.pack(wikipedia(), 3)
    check_strategies(wikipedia(), 3, strategies)
    assert number_of_packs(strategies) <= 8_155_057


@given(small_histograms, st.lists(st.tuples(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 40))))
def test_filling_places_what_the_slots_take(histogram: Histogram, drawn: list[tuple[list[int], int]]) -> None:
    capacity = histogram.max_sequence_length
    packs = [Strategy(tuple(lengths), count) for lengths, count in drawn if sum(lengths) <= capacity]
    filled, missing = fill(packs, histogram)
    assert number_of_packs(filled) <= number_of_packs(packs)
    placed = Histogram(tuple(total - left for total, left in zip(histogram.counts, missing.counts, strict=True)))
    check_strategies(placed, 4, filled)
    slots = [length for pack in packs for length in pack.lengths for _ in range(pack.count)]
    for least in range(1, capacity + 1):
        long_slots = sum(length >= least for length in slots)
        assert sum(placed.counts[least - 1 :]) <= long_slots
        if sum(missing.counts[least - 1 :]):
            longest_missing = max(i for i, count in enumerate(missing.counts, start=1) if count)
            used = sum(placed.counts[longest_missing - 1 :])
            assert used == sum(length >= longest_missing for length in slots)
