"""The stages as the DAG calls them, over a store and a tracker in memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from packing.parallel import serial
from packing.ports import MemoryStorage, MemoryTracker
from packing.verify import require, verify_dataset
from tests.builders import random_sizes, raw_shard, store_with

pytestmark = pytest.mark.slow

PARAMS = {
    "source": "/raw",
    "destination": "/out",
    "max_sequence_length": 64,
    "max_sequences_per_pack": 3,
    "max_predictions_per_sequence": 10,
    "solver": "optimal",
    "seed": 0,
    "partition_bytes": 12_000,
    "time_limit": None,
    "max_rejected": 0,
}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "plugins"))
    from stowage_airflow import stages

    yield stages
    for name in [name for name in sys.modules if name.startswith("stowage_airflow")]:
        del sys.modules[name]


@pytest.fixture
def storage(stages: Any, monkeypatch: pytest.MonkeyPatch) -> MemoryStorage:
    storage = store_with({f"part-{i}": raw_shard(random_sizes(30, seed=i), seed=i) for i in range(6)})
    tracker = MemoryTracker()
    monkeypatch.setattr(stages, "open_storage", lambda: storage)
    monkeypatch.setattr(stages, "open_tracker", lambda: tracker)
    return storage


def scan_and_solve(stages: Any, params: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    stages.check_request(params)
    groups = stages.list_shards(params, 2)
    assert len(groups) == 2
    for group in groups:
        stages.scan_group(group, params)
    solved: tuple[dict[str, Any], list[dict[str, Any]]] = stages.solve(groups, params, {}, 2)
    return solved


def test_a_refresh_broken_off_before_the_write_goes_on_where_the_data_is_now(
    stages: Any, storage: MemoryStorage
) -> None:
    """The stored recipe names shards where they were, and that only says where an auditor should have looked."""
    first, _ = scan_and_solve(stages, PARAMS)
    for uri in [uri for uri in storage.objects if uri.startswith("/raw/")]:
        storage.objects[uri.replace("/raw/", "/moved/")] = storage.objects.pop(uri)
    moved = {**PARAMS, "source": "/moved"}
    solved, writes = scan_and_solve(stages, moved)
    assert solved["recipe_id"] == first["recipe_id"]
    assert len(writes) == 2
    for group in writes:
        stages.write_group(group, moved)
    committed = stages.commit(solved, moved)
    require(verify_dataset(storage, serial(storage), committed["manifest"], "/moved"))

    again, writes = scan_and_solve(stages, moved)
    assert (again["unchanged"], writes) == (True, [])


@pytest.mark.usefixtures("stages")
def test_groups_keep_order_and_are_balanced() -> None:
    from stowage_airflow.groups import MAX_GROUPS, balanced_groups

    for count, tasks in ((0, 4), (1, 4), (3, 4), (100, 4), (5000, 4)):
        items = list(range(count))
        groups = balanced_groups(items, lambda item: item % 7 * 1_000_000, tasks)
        assert [item for group in groups for item in group] == items
        assert len(groups) <= MAX_GROUPS
        assert all(groups)
    assert len(balanced_groups(list(range(100)), lambda _: 1, 4)) == 4
    assert {len(group) for group in balanced_groups(list(range(100)), lambda _: 1, 4)} == {25}
