"""Dividing items over mapped tasks, so that thousands of shards do not become thousands of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")

GROUP_BYTES = 1024 * 1024 * 1024
"""Raw bytes that give a task several seconds of work, against a quarter of a second that starting it costs."""

MAX_GROUPS = 512
"""Below Airflow's `max_map_length` (1024 by default)."""


def balanced_groups(items: Sequence[Item], size: Callable[[Item], int], parallel_tasks: int) -> list[list[Item]]:
    """Neighbouring items in groups of about equal size (bytes); at least `parallel_tasks` groups if there are items."""
    total = sum(size(item) for item in items)
    count = min(len(items), MAX_GROUPS, max(parallel_tasks, -(-total // GROUP_BYTES)))
    groups: list[list[Item]] = [[] for _ in range(count)]
    before = 0
    for position, item in enumerate(items):
        by_size = before * count // total if total else position * count // len(items)
        groups[min(by_size, count - 1)].append(item)
        before += size(item)
    return [group for group in groups if group]
