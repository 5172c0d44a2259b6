from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import VerificationError
from packing.solvers.check import check_certificate, check_strategies
from packing.types import Certificate, Histogram, Strategy
from tests.solvers.brute_force import max_sequences, most_valuable_pack

# L = 10: two of length 3, one of 4, three of 6
HISTOGRAM = Histogram((0, 0, 2, 1, 0, 3, 0, 0, 0, 0))
SOUND = (Strategy((3, 6), 2), Strategy((4, 6), 1))


def test_sound_strategies_pass() -> None:
    check_strategies(HISTOGRAM, 2, SOUND)


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        ((Strategy((3, 6), 1), Strategy((4, 6), 1)), "length 3: expected 2 sequences.*found 1"),
        ((*SOUND, Strategy((1,), 1)), "length 1: expected 0 sequences.*found 1"),
        ((*SOUND, Strategy((6,), 1)), "length 6: expected 3 sequences.*found 4"),
        (SOUND[:1], "length 4: expected 1 sequences.*found 0"),
        ((Strategy((3, 3, 4), 1), Strategy((6,), 3)), "expected 1 to 2 sequences a pack, found 3"),
        ((Strategy((3, 3), 1), Strategy((6, 6), 1), Strategy((4, 6), 1)), "at most 10.*sum of 12"),
        ((Strategy((3, 6), 2), Strategy((4, 6), 1), Strategy((6,), 0)), "expected a count of at least 1"),
        ((Strategy((3, 6), 3), Strategy((3, 6), -1), Strategy((4, 6), 1)), "expected a count of at least 1"),
        ((*SOUND, Strategy((), 1)), "expected 1 to 2 sequences a pack, found 0"),
        ((Strategy((0, 6), 2), Strategy((4, 6), 1)), "shortest of 0"),
    ],
)
def test_each_kind_of_damage_is_found(damaged: tuple[Strategy, ...], told: str) -> None:
    with pytest.raises(VerificationError, match=told):
        check_strategies(HISTOGRAM, 2, damaged)


def test_one_token_too_many_is_too_many() -> None:
    histogram = Histogram((0, 0, 0, 0, 1, 1, 0, 0, 0, 0))
    with pytest.raises(VerificationError, match=r"at most 10.*sum of 11"):
        check_strategies(histogram, 2, [Strategy((5, 6), 1)])


def test_a_certificate_proves_its_bound() -> None:
    token_prices = Certificate(tuple(range(1, 11)), 10)
    assert check_certificate(HISTOGRAM, 2, token_prices) == 3  # 28 tokens
    assert check_certificate(HISTOGRAM, 2, replace(token_prices, best_pack_value=14)) == 2


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9).map(tuple), max_sequences)
def test_best_pack_value_is_checked_exactly(prices: tuple[int, ...], k: int) -> None:
    histogram = Histogram((1,) * len(prices))
    best = most_valuable_pack(prices, k)
    if best:
        assert check_certificate(histogram, k, Certificate(prices, best)) == -(-sum(prices) // best)
    if best > 1:
        with pytest.raises(VerificationError, match=f"found one worth {best}"):
            check_certificate(histogram, k, Certificate(prices, best - 1))


@given(max_sequences)
def test_prices_beyond_64_bits_are_exact(k: int) -> None:
    huge = 2**70
    certificate = Certificate((huge + 1, huge * 2 + 5, huge * 3), huge * 3 + 6)
    assert check_certificate(Histogram((1, 1, 1)), k, certificate) == 2
    if k > 1:
        with pytest.raises(VerificationError, match="best_pack_value"):
            check_certificate(Histogram((1, 1, 1)), k, replace(certificate, best_pack_value=huge * 3 + 5))


@pytest.mark.parametrize(
    "certificate",
    [Certificate((1,) * 9, 10), Certificate((), 10), Certificate((-1,) * 10, 10), Certificate((0,) * 10, 0)],
)
def test_unusable_certificates_are_refused(certificate: Certificate) -> None:
    with pytest.raises(VerificationError, match="certificate: expected 10 prices"):
        check_certificate(HISTOGRAM, 2, certificate)
