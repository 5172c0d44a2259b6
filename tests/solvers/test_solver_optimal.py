from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing.errors import UsageError
from packing.solvers import solve
from packing.solvers.check import check_certificate, check_strategies
from packing.types import SOLVERS, Histogram, merge_strategies
from tests.solvers.brute_force import fewest_packs, max_sequences, small_histograms, tiny_histograms

HISTOGRAMS = Path(__file__).parents[2].parent / "shared" / "data" / "histograms"


def published(name: str) -> Histogram:
    path = HISTOGRAMS / f"{name}.json"
    if not path.exists():
        pytest.skip("no published histograms here")
    return Histogram(tuple(json.loads(path.read_text())["counts"]))


@given(tiny_histograms, max_sequences)
def test_bound_optimum_and_packs_are_in_order(histogram: Histogram, k: int) -> None:
    solution = solve(histogram, k)
    optimum = fewest_packs(histogram.counts, k)
    assert solution.lower_bound <= optimum <= solution.packs <= optimum + 1


@given(small_histograms, max_sequences, st.sampled_from(("optimal", "spfhp", "lpfhp")))
def test_every_solver_gives_a_checked_canonical_answer(histogram: Histogram, k: int, solver: str) -> None:
    solution = solve(histogram, k, solver)
    check_strategies(histogram, k, solution.strategies)
    assert check_certificate(histogram, k, solution.certificate) == solution.lower_bound
    assert solution.strategies == merge_strategies(solution.strategies)
    assert solution.complete
    assert solution.gap >= 0


@settings(max_examples=30)
@given(small_histograms, max_sequences)
def test_the_same_histogram_has_the_same_answer(histogram: Histogram, k: int) -> None:
    first, second = solve(histogram, k), solve(histogram, k)
    assert (first.strategies, first.certificate, first.iterations) == (
        second.strategies,
        second.certificate,
        second.iterations,
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_histograms_are_solved_to_the_bound_or_one_above(seed: int) -> None:
    random = np.random.default_rng(seed)
    capacity, k = int(random.integers(32, 257)), int(random.integers(2, 13))
    counts = random.integers(0, 2000, capacity) * (random.random(capacity) < random.uniform(0.1, 1))
    solution = solve(Histogram(tuple(counts.tolist())), k)
    assert solution.gap <= 1


@pytest.mark.parametrize(
    ("counts", "k", "packs"),
    [
        ((1,), 1, 1),
        ((5,), 3, 5),
        ((0, 0, 0, 0, 0, 0, 0, 7), 4, 7),
        ((3, 2, 1, 0), 1, 6),
        ((0, 0, 0, 1), 64, 1),
        ((0, 0, 0, 4, 3, 2), 5, 9),
        ((1000, 0, 0, 0, 0, 0, 0, 0), 100, 125),
        ((10**12, 0, 10**12), 2, 15 * 10**11),
        ((10**12, 0, 10**12, 0), 2, 10**12),
        ((0, 0, 2**53, 0, 0, 0, 0), 2, 2**52),
    ],
)
def test_simple_cases_are_proven_optimal(counts: tuple[int, ...], k: int, packs: int) -> None:
    solution = solve(Histogram(counts), k)
    assert (solution.packs, solution.lower_bound) == (packs, packs)


@pytest.mark.parametrize("seed", range(8))
def test_counts_of_many_magnitudes_are_solved_to_the_precision_of_floating_point(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = (10 ** random.uniform(0, 12.5, 300)).astype(int)
    solution = solve(Histogram(tuple(counts.tolist())), 3)
    assert solution.gap <= max(1, solution.lower_bound * 1e-10)


@pytest.mark.parametrize("k", [3, 4, 12])
def test_wikipedia_is_solved_to_its_proven_bound(k: int) -> None:
    solution = solve(published("wikipedia_bert_512"), k)
    assert solution.lower_bound == (8_143_829 if k == 3 else 8_135_727)
    assert solution.gap == 0


@pytest.mark.parametrize("k", range(3, 9))
def test_squad_is_solved_to_its_proven_bound(k: int) -> None:
    solution = solve(published("squad_1_1_bert_384"), k)
    assert (solution.packs, solution.lower_bound) == (40195, 40195)


def test_a_time_limit_returns_the_best_so_far_with_its_true_gap() -> None:
    counts = np.bincount(np.clip(np.random.default_rng(0).lognormal(5, 1, 10**5).astype(int), 1, 1024), minlength=1025)
    histogram = Histogram(tuple(counts[1:].tolist()))
    solution = solve(histogram, 4, time_limit=1e-9)
    assert not solution.complete
    assert solution.gap > 0
    check_strategies(histogram, 4, solution.strategies)
    assert check_certificate(histogram, 4, solution.certificate) == solution.lower_bound


@pytest.mark.parametrize(("capacity", "k", "sequences"), [(4096, 7, 20_000), (4096, 16, 20_000), (2048, 16, 300_000)])
def test_long_slots_with_few_sequences_take_a_bounded_effort(capacity: int, k: int, sequences: int) -> None:
    mu, sigma = {2048: (6.0, 1.0), 4096: (6.2, 1.1)}[capacity]
    lengths = np.random.default_rng(0).lognormal(mu, sigma, sequences).astype(int)
    solution = solve(Histogram.of_lengths(np.clip(lengths, 1, capacity), capacity), k)
    assert solution.complete
    assert solution.gap <= max(3, solution.lower_bound * 1e-4)
    assert solution.iterations <= 150


@pytest.mark.slow
def test_what_the_effort_did_not_reach_is_a_true_gap() -> None:
    """K nearly binds and lengths are many: the linear program would run for minutes."""
    lengths = np.random.default_rng(0).lognormal(6.5, 1.2, 20_000).astype(int)
    histogram = Histogram.of_lengths(np.clip(lengths, 1, 8192), 8192)
    first, second = solve(histogram, 8), solve(histogram, 8)
    assert first.complete
    assert 0 < first.gap <= first.lower_bound * 0.05
    assert check_certificate(histogram, 8, first.certificate) == first.lower_bound
    assert (first.strategies, first.certificate) == (second.strategies, second.certificate)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("histogram", "k", "limit", "told"),
    [
        (Histogram((1, 2)), 0, None, "max_sequences_per_pack: expected at least 1"),
        (Histogram((1, 2)), True, None, "max_sequences_per_pack: expected an integer"),
        (Histogram((1, 2)), 2.0, None, "max_sequences_per_pack: expected an integer"),
        (Histogram((0, 0)), 2, None, "histogram: expected 1 to 2.53 sequences, found 0"),
        (Histogram((1, 2**53)), 2, None, "histogram: expected 1 to 2.53 sequences"),
        (Histogram((1, 2)), 2, 0.0, "time_limit: expected seconds above 0"),
        (Histogram((1, 2)), 2, float("nan"), "time_limit: expected seconds above 0"),
    ],
)
def test_parameters_that_cannot_work_are_refused(
    histogram: Histogram, k: int, limit: float | None, told: str, solver: str
) -> None:
    with pytest.raises(UsageError, match=told):
        solve(histogram, k, solver, limit)


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(UsageError, match="solver: expected one of optimal, nnls, spfhp, lpfhp"):
        solve(Histogram((1,)), 1, "best")
