"""Airflow's plugin as a test imports it, outside of Airflow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = "stowage_airflow"


@contextmanager
def importable_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the plugin be imported anew, and forget that; what other tests had imported before stays theirs."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "plugins"))
    before = _forget()
    try:
        yield
    finally:
        _forget()
        sys.modules.update(before)


def _forget() -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == PACKAGE}
