"""Raw pretraining data for tests, made from nothing but a seed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from packing.example import encode_example
from packing.in_memory import MemoryStorage
from packing.parallel import StageMap
from packing.pipeline import Stages
from packing.spool import Spool
from packing.tfrecord import encode_record

VOCABULARY = 1000


def raw_features(
    length: int, masked: int, *, slots: int = 64, predictions: int = 10, seed: int = 0
) -> dict[str, np.ndarray]:
    """One valid raw example with `length` real tokens, `masked` of them masked."""
    random = np.random.default_rng((seed, length, masked))
    split = int(random.integers(1, length + 1))
    positions = np.sort(random.choice(length, size=masked, replace=False))

    def pad(values: np.ndarray | Sequence[int], size: int, dtype: type = np.int64) -> np.ndarray:
        padded = np.zeros(size, dtype=dtype)
        padded[: len(values)] = values
        return padded

    return {
        "input_ids": pad(random.integers(1, VOCABULARY, size=length), slots),
        "input_mask": pad(np.ones(length), slots),
        "segment_ids": pad((np.arange(length) >= split).astype(np.int64), slots),
        "masked_lm_positions": pad(positions, predictions),
        "masked_lm_ids": pad(random.integers(1, VOCABULARY, size=masked), predictions),
        "masked_lm_weights": pad(np.ones(masked), predictions, np.float32),
        "next_sentence_labels": random.integers(0, 2, size=1),
    }


def raw_example(length: int, masked: int = 0, **options: int) -> bytes:
    return encode_example(raw_features(length, masked, **options))


def raw_shard(sizes: Iterable[tuple[int, int]], *, seed: int = 0, compression: str = "", **options: int) -> bytes:
    """A shard of examples with these (length, masked) sizes, no two alike."""
    records = [
        encode_record(raw_example(length, masked, seed=seed * 100_000 + number, **options))
        for number, (length, masked) in enumerate(sizes)
    ]
    data = b"".join(records)
    return {"": lambda b: b, "gzip": lambda b: gzip.compress(b, mtime=0), "zlib": zlib.compress}[compression](data)


def random_sizes(count: int, *, seed: int, longest: int = 64, predictions: int = 10) -> list[tuple[int, int]]:
    """`count` (length, masked) sizes with about 15 % of tokens masked, as pretraining data has them."""
    lengths = np.random.default_rng(seed).integers(3, longest + 1, size=count).tolist()
    return [(length, min(predictions, max(1, round(0.15 * length)))) for length in lengths]


def store_with(shards: dict[str, bytes], source: str = "/raw") -> MemoryStorage:
    storage = MemoryStorage()
    for name, content in shards.items():
        storage.write(f"{source}/{name}", content)
    storage.requests.clear()
    return storage


def stages_of(work: StageMap, spool: Spool | None = None) -> Stages:
    """All stages by one map, without progress."""
    return Stages(lookups=work, work=work, spool=spool)
