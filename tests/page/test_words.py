from __future__ import annotations

import os
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stowage_airflow.page.words import describe_gap, legible, moment, percent, seconds, size


@given(st.integers(1, 10**12), st.integers(0, 10**9))
@example(8_143_829, 11_228)
@example(10_000, 1)
@example(10_000, 2)
def test_the_word_for_a_gap_never_promises_more_than_the_figures(lower_bound: int, gap: int) -> None:
    word = describe_gap(lower_bound + gap, lower_bound)
    if word == "proven optimal":
        assert gap == 0
    elif word.startswith("within "):
        share = Fraction(word.removeprefix("within ").removesuffix(" %")) / 100
        assert 0 < Fraction(gap, lower_bound) <= share
        assert share == Fraction(1, 10**6) or Fraction(gap, lower_bound) > share / 10
    else:
        assert word == "more than 10 %"
        assert Fraction(gap, lower_bound) > Fraction(1, 10)


@pytest.mark.parametrize(
    ("packs", "lower_bound", "word"),
    [
        (None, 5, "not recorded"),
        (5, None, "not recorded"),
        (4, 5, "no valid bound"),
        (5, 0, "no valid bound"),
        (float("nan"), 5, "no valid bound"),
        (5, float("nan"), "no valid bound"),
    ],
)
def test_without_a_bound_nothing_is_promised(packs: float | None, lower_bound: float | None, word: str) -> None:
    assert describe_gap(packs, lower_bound) == word


@given(st.floats(0, 1))
def test_a_share_below_the_whole_is_never_shown_as_the_whole(share: float) -> None:
    assert (percent(share) == "100.0000 %") == (share == 1)


@given(st.binary())
def test_any_name_can_be_written_down_and_text_stays_as_it_is(name: bytes) -> None:
    decoded = name.decode(errors="surrogateescape")
    assert legible(decoded) == name.decode(errors="backslashreplace")
    assert legible(legible(decoded)) == legible(decoded)


def test_bytes_that_are_no_text_are_told_apart() -> None:
    assert legible(os.fsdecode(b"part-\xff\xc3\xa9.tfrecord")) == "part-\\xffé.tfrecord"
    assert legible("\ud800\udc41") == "\\ud800\\udc41"


@given(st.integers(0, 10**18))
def test_a_size_is_within_its_rounding(count: int) -> None:
    amount, unit = size(count).replace(",", "").split()
    scale = 1000 ** ["B", "kB", "MB", "GB", "TB", "PB"].index(unit)
    assert abs(float(amount) * scale - count) <= 0.05 * scale * 1.0001


@pytest.mark.parametrize(
    ("value", "text"), [(0.346, "0.35 s"), (725, "12 min 5 s"), (7380, "2 h 3 min"), (59.996, "60.00 s")]
)
def test_durations_are_words(value: float, text: str) -> None:
    assert seconds(value) == text


@given(st.integers(-(10**20), 10**20))
@example(10**17)
def test_a_time_of_any_size_is_one_of_the_calendar(milliseconds: int) -> None:
    assert 1970 <= moment(milliseconds).year <= 9999


def test_a_time_is_that_of_its_milliseconds() -> None:
    assert moment(1_800_000_000_000).isoformat() == "2027-01-15T08:00:00+00:00"
