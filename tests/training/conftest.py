from __future__ import annotations

from pathlib import Path

import pytest

from packing.in_memory import MemoryStorage
from tests.training.packs import write_dataset
from training.shards import Cache


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def dataset(storage: MemoryStorage) -> tuple[str, str]:
    """URIs of a manifest and of the raw shards it packs."""
    return write_dataset(storage, "/data")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")
