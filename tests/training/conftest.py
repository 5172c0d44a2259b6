from __future__ import annotations

import pytest

from packing.ports import MemoryStorage
from tests.training.packs import write_dataset


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def dataset(storage: MemoryStorage) -> tuple[str, str]:
    """URIs of a manifest and of the raw shards it packs."""
    return write_dataset(storage, "/data")
