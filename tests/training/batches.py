"""Batches as tests take them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from packing.in_memory import MemoryStorage
from tests.training.packs import MODEL
from training.data import training_batches
from training.examples import Examples, open_examples
from training.shards import Cache

Dataset = tuple[str, str]
"""URIs of a manifest and of the raw shards it packs."""
Ids = tuple[int, ...]


def ids(batches: Iterable[Any]) -> list[Ids]:
    """The token ids of the examples in these batches, without the empty ones and the padding."""
    rows = [row[row > 0] for batch in batches for row in batch["input_ids"].numpy()]
    return [tuple(row.tolist()) for row in rows if len(row)]


def training(data: Examples | list[Examples], batch_size: int, steps: int, **options: Any) -> list[Any]:
    """The batches of `steps` steps of one replica."""
    data = data if isinstance(data, list) else [data]
    mode = "packed" if data[0].packed else "padded"
    defaults = {"mode": mode, "seed": 0, "start": 0, "shares": [0], "replicas": 1}
    batches = training_batches(data, MODEL, batch_size=batch_size, **{**defaults, **options})
    return list(batches.take(steps * len({**defaults, **options}["shares"])))


def of_mode(storage: MemoryStorage, dataset: Dataset, mode: str, cache: Cache) -> Examples:
    return open_examples(storage, dataset[mode != "packed"], cache, lengths=mode == "bucketed")
