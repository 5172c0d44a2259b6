"""Dividing items over mapped tasks, so that thousands of shards do not become thousands of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

GROUP_BYTES = 1024 * 1024 * 1024
"""Raw bytes that give a task several seconds of work, against a quarter of a second that starting it costs."""

MAX_GROUPS = 512
"""Below Airflow's `max_map_length` (1024 by default)."""

_LONGEST_NAME = 60


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


def shards_label(shards: Sequence[Mapping[str, Any]]) -> str:
    """A group of raw shards as Airflow lists its task: first and last name, and the size."""
    names = [_short(shard["name"]) for shard in (shards[0], shards[-1])]
    size = sum(shard["size"] for shard in shards)
    return f"{names[0] if len(shards) == 1 else ' ... '.join(names)}, {_megabytes(size)}"


def partitions_label(group: Mapping[str, Any]) -> str:
    """A group of partitions as Airflow lists its task: how many, of how many raw shards, and the size of these."""
    counts = [(len(group["partitions"]), "partition"), (len(group["shards"]), "raw shard")]
    words = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts]
    return ", ".join([*words, _megabytes(sum(shard["size"] for shard in group["shards"]))])


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else "..." + name[-_LONGEST_NAME:]


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
