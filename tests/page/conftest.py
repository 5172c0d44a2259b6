"""The page on a tracker in memory, as somebody whom Airflow lets do everything."""

from __future__ import annotations

import sys
from pathlib import Path

# Airflow puts its plugins folder there as well.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))

import pytest

from packing.in_memory import MemoryTracker
from tests.page.opened import Page, open_page


@pytest.fixture
def tracker() -> MemoryTracker:
    return MemoryTracker()


@pytest.fixture
def page(tracker: MemoryTracker) -> Page:
    return open_page(tracker)
