"""Small random datasets, raw and packed by an obvious NumPy packer that shares no code with `packing`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from packing.example import encode_example
from packing.manifest import write_manifest
from packing.ports import Storage
from packing.tfrecord import encode_record
from packing.types import Manifest, PackedShard
from training.config import ModelConfig

Example = dict[str, np.ndarray[Any, Any]]

SLOTS, PREDICTIONS, VOCABULARY = 32, 4, 99

MODEL = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=SLOTS,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.1,
)


def raw_sequence(rng: np.random.Generator, length: int, masked: int, slots: int = SLOTS) -> Example:
    """One padded raw example of `length` tokens, `masked` of them masked."""
    mask = (np.arange(slots) < length).astype(np.int64)
    real = (np.arange(PREDICTIONS) < masked).astype(np.int64)
    positions = np.zeros(PREDICTIONS, np.int64)
    positions[:masked] = np.sort(rng.choice(length, masked, replace=False))
    return {
        "input_ids": rng.integers(1, VOCABULARY, slots) * mask,
        "input_mask": mask,
        "segment_ids": (np.arange(slots) >= length // 2) * mask,
        "masked_lm_positions": positions,
        "masked_lm_ids": rng.integers(1, VOCABULARY, PREDICTIONS) * real,
        "masked_lm_weights": real.astype(np.float32),
        "next_sentence_labels": rng.integers(0, 2, 1),
    }


def raw_sequences(lengths: Sequence[int], seed: int = 0, slots: int = SLOTS) -> list[Example]:
    """Sequences of these lengths, 1 and 2 of their tokens masked in turn."""
    rng = np.random.default_rng(seed)
    return [raw_sequence(rng, length, 1 + index % 2, slots) for index, length in enumerate(lengths)]


def group_sequences(groups: Sequence[Sequence[int]]) -> list[list[Example]]:
    """Random sequences of the lengths given, grouped alike."""
    sequences = iter(raw_sequences([length for group in groups for length in group]))
    return [[next(sequences) for _ in group] for group in groups]


def pack(sequences: Sequence[Example], max_sequences: int) -> Example:
    """One pack, written slot by slot as the contract in DESIGN.md words it."""
    packed: Example = {
        name: np.zeros(SLOTS, np.int64) for name in ("input_ids", "input_mask", "segment_ids", "positions")
    }
    for name in ("masked_lm_positions", "masked_lm_ids"):
        packed[name] = np.zeros(PREDICTIONS + max_sequences, np.int64)
    for name in ("next_sentence_positions", "next_sentence_labels"):
        packed[name] = np.zeros(max_sequences, np.int64)
    packed["masked_lm_weights"] = np.zeros(PREDICTIONS + max_sequences, np.float32)
    packed["next_sentence_weights"] = np.zeros(max_sequences, np.float32)
    offset = masked = 0
    for index, sequence in enumerate(sequences):
        length, count = int(sequence["input_mask"].sum()), int(sequence["masked_lm_weights"].sum())
        slots, predictions = slice(offset, offset + length), slice(masked, masked + count)
        for name in ("input_ids", "segment_ids"):
            packed[name][slots] = sequence[name][:length]
        packed["input_mask"][slots] = index + 1
        packed["positions"][slots] = np.arange(length)
        packed["masked_lm_positions"][predictions] = sequence["masked_lm_positions"][:count] + offset
        packed["masked_lm_ids"][predictions] = sequence["masked_lm_ids"][:count]
        packed["masked_lm_weights"][predictions] = index + 1
        packed["next_sentence_positions"][index] = offset
        packed["next_sentence_labels"][index] = sequence["next_sentence_labels"][0]
        packed["next_sentence_weights"][index] = 1
        offset, masked = offset + length, masked + count
    return packed


def stack(examples: Sequence[Example]) -> Example:
    """A batch, int64 narrowed to int32 as the data module does."""
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    return {name: values.astype(np.int32) if values.dtype == np.int64 else values for name, values in batch.items()}


def shard_bytes(examples: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(encode_record(encode_example(example)) for example in examples)


GROUPS = [(20, 12), (10, 9, 13), (32,), (5, 25), (8, 11, 7), (16, 16), (30,), (3, 14, 15)]
"""Lengths of the sequences that share a pack in `write_dataset`'s data; K = 3."""
SEQUENCES = sum(map(len, GROUPS))


def write_dataset(storage: Storage, root: str) -> tuple[str, str]:
    """The same random sequences as a manifest and as raw shards, two shards each; gives both URIs."""
    groups = group_sequences(GROUPS)
    sequences = [sequence for group in groups for sequence in group]
    packs = [pack(group, 3) for group in groups]
    for number, raw in enumerate((sequences[:5], sequences[5:])):
        storage.write(f"{root}/raw/part-{number}", shard_bytes(raw))
    return write_packs(storage, root, packs[: len(packs) // 2], packs[len(packs) // 2 :]), f"{root}/raw"


def write_packs(storage: Storage, root: str, *parts: Sequence[Example]) -> str:
    """A shard of each part, and the manifest of them, whose URI is given; K = 3."""
    shards = []
    for number, part in enumerate(parts):
        uri, content = f"{root}/packed/part-{number:05d}.tfrecord", shard_bytes(part)
        storage.write(uri, content)
        shards.append(
            PackedShard(
                uri=uri,
                bytes=len(content),
                packs=len(part),
                sequences=int(sum(p["next_sentence_weights"].sum() for p in part)),
                tokens=int(sum((p["input_mask"] > 0).sum() for p in part)),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
    manifest = f"{root}/manifests/recipe.json"
    write_manifest(storage, manifest, Manifest("recipe-of-the-test", SLOTS, 3, PREDICTIONS, tuple(shards)))
    return manifest
