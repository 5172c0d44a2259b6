"""Settings from the environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import UsageError

ON, OFF = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "")


@pytest.fixture(autouse=True, scope="module")
def plugins() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "plugins"))
        import stowage_airflow.settings  # noqa: F401 - for the tests below


def required(text: str) -> bool:
    from stowage_airflow.settings import read_settings

    return read_settings({"STOWAGE_REQUIRE_SIGNATURE": text}).require_signature


def test_without_the_setting_no_signature_is_required() -> None:
    from stowage_airflow.settings import read_settings

    assert not read_settings({}).require_signature


@pytest.mark.parametrize("change", [str, str.upper, str.title, lambda text: f" {text}\n"])
def test_a_switch_is_on_or_off(change: Callable[[str], str]) -> None:
    assert {required(change(text)) for text in ON} == {True}
    assert {required(change(text)) for text in OFF} == {False}


@given(text=st.text().filter(lambda text: text.strip().lower() not in (*ON, *OFF)))
def test_nonsense_is_refused_and_not_taken_for_off(text: str) -> None:
    with pytest.raises(UsageError, match=r"^STOWAGE_REQUIRE_SIGNATURE: expected true or false, got ") as caught:
        required(text)
    assert repr(text) in str(caught.value)
