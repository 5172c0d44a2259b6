from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from packing.solvers.bounds import Bound, cheap_bound, sequence_bound, token_bound, with_long_sequences
from packing.solvers.check import check_certificate
from packing.solvers.knapsack import completions
from packing.types import Histogram
from tests.solvers.brute_force import fewest_packs, max_sequences, most_valuable_pack, small_histograms, tiny_histograms


def all_bounds(histogram: Histogram, k: int) -> list[Bound]:
    return [
        token_bound(histogram),
        sequence_bound(histogram, k),
        with_long_sequences(histogram, token_bound(histogram)),
        with_long_sequences(histogram, sequence_bound(histogram, k)),
        cheap_bound(histogram, k),
    ]


@given(tiny_histograms, max_sequences)
def test_no_bound_exceeds_the_optimum(histogram: Histogram, k: int) -> None:
    optimum = fewest_packs(histogram.counts, k)
    assert all(bound.packs <= optimum for bound in all_bounds(histogram, k))


@given(small_histograms, max_sequences)
def test_every_certificate_proves_its_bound(histogram: Histogram, k: int) -> None:
    for bound in all_bounds(histogram, k):
        assert check_certificate(histogram, k, bound.certificate) == bound.packs


@given(small_histograms, max_sequences)
def test_the_bounds_are_as_strong_as_their_formulas(histogram: Histogram, k: int) -> None:
    capacity = histogram.max_sequence_length
    assert token_bound(histogram).packs == -(-histogram.tokens // capacity)
    assert sequence_bound(histogram, k).packs >= -(-histogram.sequences // k)
    assert with_long_sequences(histogram, token_bound(histogram)).packs >= sum(histogram.counts[capacity // 2 :])
    assert cheap_bound(histogram, k).packs == max(bound.packs for bound in all_bounds(histogram, k))


def test_the_long_sequence_bound_sees_what_cannot_be_paired() -> None:
    histogram = Histogram((0, 0, 0, 0, 0, 5, 0, 0, 0, 0))
    assert token_bound(histogram).packs == 3
    assert with_long_sequences(histogram, token_bound(histogram)).packs == 5


def test_a_full_sequence_takes_the_place_of_many() -> None:
    histogram = Histogram((4, 0, 0, 0, 0, 0, 0, 0, 0, 3))
    assert sequence_bound(histogram, 4).packs == 2
    assert with_long_sequences(histogram, sequence_bound(histogram, 4)).packs == 4


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(0, 6))
def test_completions_are_the_best_and_add_up(prices: list[int], k: int) -> None:
    by_length = np.array([0, *prices], dtype=np.int64)
    best = completions(by_length, k)
    tokens = np.arange(len(by_length))
    packs = best.lengths(tokens)
    assert best.values.tolist() == [most_valuable_pack(tuple(prices[:t]), k) for t in tokens.tolist()]
    assert (packs.sum(axis=1) <= tokens).all()
    assert ((packs > 0).sum(axis=1) <= k).all()
    assert (by_length[packs].sum(axis=1) == best.values).all()
