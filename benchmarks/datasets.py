"""What is packed: published and random length histograms, and raw shards of any amount, from nothing but seeds.

Raw records are those of the Wikipedia sample, repeated; where it is missing, made-up ones. Each copy of a record has
two of its tokens changed, so no two records are alike, and any shard can be made without the ones before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.settings import MAX_PREDICTIONS_PER_SEQUENCE, MAX_SEQUENCE_LENGTH, SHARDS_PER_UNIT, Bench
from packing.example import encode_example
from packing.tfrecord import decompress, encode_record, read_records
from packing.types import Histogram

WIKIPEDIA, SQUAD = "wikipedia_bert_512", "squad_1_1_bert_384"
LOG_NORMAL = {2048: (6.0, 1.0), 4096: (6.2, 1.1), 8192: (6.5, 1.2)}
LOG_NORMAL_SEED = 1

_MADE_UP_RECORDS = 2000
_TINY_RECORDS = 50


def published_histogram(data: Path, name: str) -> Histogram | None:
    """A published histogram, if this machine has it."""
    path = data / "histograms" / f"{name}.json"
    return Histogram(tuple(json.loads(path.read_bytes())["counts"])) if path.exists() else None


def log_normal_histograms(sequences: int) -> Iterator[Histogram]:
    """Long slots: `sequences` lengths for each L of LOG_NORMAL, all drawn from one generator in this order."""
    random = np.random.default_rng(LOG_NORMAL_SEED)
    for longest, (mu, sigma) in LOG_NORMAL.items():
        lengths = np.clip(random.lognormal(mu, sigma, sequences).astype(np.int64), 1, longest)
        yield Histogram.of_lengths(lengths, longest)


def random_histogram(random: np.random.Generator) -> tuple[Histogram, int]:
    """A histogram with L in 32..512 and a K in 2..12; up to 3 to 100,000 sequences of 5 to 100 % of the lengths."""
    capacity, max_sequences = int(random.integers(32, 513)), int(random.integers(2, 13))
    counts = random.integers(1, int(10 ** random.uniform(0.5, 5)) + 1, capacity)
    counts *= random.random(capacity) < random.uniform(0.05, 1)
    counts[random.integers(capacity)] += 1
    return Histogram(tuple(counts.tolist())), max_sequences


def shuffled_parts(histogram: Histogram, size: int, sequences: int, seed: int) -> Iterator[Histogram]:
    """The first `sequences` lengths of `histogram`, shuffled, in parts of `size` and a smaller last one."""
    random = np.random.default_rng(seed)
    left = np.array(histogram.counts)
    while sequences > 0:
        part = random.multivariate_hypergeometric(left, min(size, sequences), method="marginals")
        left -= part
        sequences -= size
        yield Histogram(tuple(part.tolist()))


def raw_data(bench: Bench, shards: int) -> Path:
    """A folder with the first `shards` raw shards; those that are not there yet are made."""
    made = bench.scratch / "shards"
    made.mkdir(exist_ok=True)
    records = list(_base_records(bench.data))
    mean = sum(len(record.payload) for record in records) / len(records)
    per_shard = max(1, round(bench.sizes.unit_bytes / SHARDS_PER_UNIT / mean))
    folder = bench.scratch / f"raw-{shards}"
    if not folder.exists():
        folder.mkdir()
        for number in range(shards):
            shard = made / f"part-{number:05d}.tfrecord"
            if not shard.exists():
                shard.write_bytes(_shard(records, number * per_shard, per_shard))
            os.link(shard, folder / shard.name)
    return folder


def tiny_raw_data(bench: Bench) -> Path:
    """A folder with one shard of a few records, to see what a command costs that has next to nothing to do."""
    folder = bench.scratch / "raw-tiny"
    folder.mkdir(exist_ok=True)
    (folder / "part-00000.tfrecord").write_bytes(_shard(_base_records(bench.data), 0, _TINY_RECORDS))
    return folder


def describe_raw_data(data: Path) -> str:
    """Where the records come from, for the report."""
    records = _base_records(data)
    kind = "of the Wikipedia sample" if _sample_shards(data) else "made up, as there is no sample here"
    return f"{len(records):,} records {kind}, repeated with two tokens changed in each copy"


@dataclass(frozen=True)
class _Record:
    """A serialized raw example; `digits` are the offsets of bytes whose low 7 bits may be anything."""

    payload: bytes
    digits: tuple[int, ...]


def _shard(records: tuple[_Record, ...] | list[_Record], first: int, count: int) -> bytes:
    numbers = (divmod(number, len(records)) for number in range(first, first + count))
    return b"".join(encode_record(_copy(records[which], copy)) for copy, which in numbers)


def _copy(record: _Record, copy: int) -> bytes:
    payload = bytearray(record.payload)
    for place, offset in enumerate(record.digits):
        payload[offset] = 0x80 | (copy >> 7 * place & 0x7F)
    return bytes(payload)


@cache
def _base_records(data: Path) -> tuple[_Record, ...]:
    sample = _sample_shards(data)
    if sample:
        contents = (decompress(path.read_bytes(), path.name) for path in sample)
        payloads = [payload for content in contents for _, payload in read_records(content, "sample")]
    else:
        payloads = list(_made_up_payloads())
    return tuple(_Record(payload, _long_varints(payload, 2)) for payload in payloads)


def _sample_shards(data: Path) -> list[Path]:
    return sorted((data / "wikipedia").glob("*.tfrecord*"))


def _made_up_payloads() -> Iterator[bytes]:
    random = np.random.default_rng(0)
    for length in np.clip(random.lognormal(6, 0.8, _MADE_UP_RECORDS).astype(np.int64), 16, MAX_SEQUENCE_LENGTH):
        masked = min(MAX_PREDICTIONS_PER_SEQUENCE, round(0.15 * length))
        real = np.arange(MAX_SEQUENCE_LENGTH) < length
        chosen = np.arange(MAX_PREDICTIONS_PER_SEQUENCE) < masked
        positions = np.zeros(MAX_PREDICTIONS_PER_SEQUENCE, dtype=np.int64)
        positions[:masked] = np.sort(random.choice(length, masked, replace=False))
        features = {
            "input_ids": random.integers(999, 30522, MAX_SEQUENCE_LENGTH) * real,
            "input_mask": real.astype(np.int64),
            "segment_ids": (np.arange(MAX_SEQUENCE_LENGTH) >= length // 2) * real.astype(np.int64),
            "masked_lm_positions": positions,
            "masked_lm_ids": random.integers(999, 30522, MAX_PREDICTIONS_PER_SEQUENCE) * chosen,
            "masked_lm_weights": chosen.astype(np.float32),
            "next_sentence_labels": random.integers(0, 2, 1),
        }
        yield encode_example(features)


def _long_varints(payload: bytes, count: int) -> tuple[int, ...]:
    """Offsets of the first bytes of the first `count` tokens that take more than one byte.

    The payload is a serialized tf.train.Example with `input_ids` packed: the name, then three lengths, then varints.
    """
    offset = payload.index(b"\x0a\x09input_ids") + 11
    for tag in b"\x12\x1a\x0a":
        if payload[offset] != tag:
            raise ValueError("input_ids: expected a packed list of integers right after the name")
        offset = _after_varint(payload, offset + 1)
    found: list[int] = []
    # A shorter sequence than that has fewer, before its padding.
    while len(found) < count and payload[offset]:
        if payload[offset] & 0x80:
            found.append(offset)
        offset = _after_varint(payload, offset)
    return tuple(found)


def _after_varint(payload: bytes, offset: int) -> int:
    while payload[offset] & 0x80:
        offset += 1
    return offset + 1
