"""From a manifest or a raw prefix to batches in the packed layout, in an order that a position alone determines.

Example number n of a run is entry `n mod N` of the permutation of all N examples drawn from (seed, epoch `n div N`):
the shuffle is global, every epoch reads each example once, and a resumed run continues at any n at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from packing.errors import ExampleError, InputError, UsageError
from packing.example import decode_example
from packing.features import Feature, packed_features, raw_features
from packing.manifest import read_manifest
from packing.ports import Storage
from packing.scan import list_raw_shards
from training.config import ModelConfig, is_manifest
from training.model import Batch
from training.shards import Records, fetch_packed, fetch_raw


@dataclass(frozen=True, eq=False)
class Examples:
    """A dataset on local disk; `records[n]` is one serialized example with these `features`.

    An example is a pack (`packed`), or a padded raw sequence, which is then a pack of one. `recipe_id` is None for raw
    data.
    """

    uri: str
    records: Records
    features: tuple[Feature, ...]
    packed: bool
    sequences: int
    recipe_id: str | None

    @property
    def max_sequence_length(self) -> int:
        return self.features[0].length

    @property
    def packing_factor(self) -> float:
        return self.sequences / len(self.records)


def open_examples(storage: Storage, uri: str, cache: Path) -> Examples:
    """Fetch the shards of a manifest, or below a raw prefix, into the folder `cache`.

    Raises InputError for a dataset without examples or with wrong ones, VerificationError for altered shards.
    """
    return _open_packed(storage, uri, cache) if is_manifest(uri) else _open_raw(storage, uri, cache)


def check_model(examples: Examples, model: ModelConfig) -> None:
    """Raise UsageError if the model has fewer position embeddings than the data has slots."""
    if examples.max_sequence_length > model.max_position_embeddings:
        raise UsageError(
            f"{examples.uri}: its max_sequence_length {examples.max_sequence_length} exceeds the model's "
            f"max_position_embeddings {model.max_position_embeddings}; give --model a .json with more"
        )


def training_batches(
    examples: Examples, model: ModelConfig, *, batch_size: int, seed: int, start: int = 0
) -> tf.data.Dataset:
    """Endless shuffled batches of exactly `batch_size` examples, from example number `start` of the run."""

    def indices() -> Iterator[np.ndarray[Any, Any]]:
        count = len(examples.records)
        epoch, order, position = -1, np.empty(0, np.int64), start
        while True:
            numbers = np.arange(position, position + batch_size)
            batch = np.empty(batch_size, np.int64)
            for wanted in np.unique(numbers // count):
                if wanted != epoch:
                    epoch, order = int(wanted), np.random.default_rng([seed, int(wanted)]).permutation(count)
                here = numbers // count == wanted
                batch[here] = order[numbers[here] % count]
            yield batch
            position += batch_size

    return _batches(examples, model, indices)


def evaluation_batches(
    examples: Examples, model: ModelConfig, *, batch_size: int = 8, limit: int | None = None
) -> tf.data.Dataset:
    """The first `limit` examples (all by default), once and in order; the last batch may be smaller."""
    count = min(len(examples.records), limit or len(examples.records))

    def indices() -> Iterator[np.ndarray[Any, Any]]:
        for first in range(0, count, batch_size):
            yield np.arange(first, min(first + batch_size, count))

    return _batches(examples, model, indices)


def padded_layout(raw: Batch) -> dict[str, tf.Tensor]:
    """A batch of raw features as packs that hold one sequence: the packed layout with K = 1 and M = P."""
    mask = raw["input_mask"]
    slots = tf.range(tf.shape(mask)[1], dtype=mask.dtype)
    labels = raw["next_sentence_labels"]
    return {
        **raw,
        "positions": slots[None, :] * mask,
        "next_sentence_positions": tf.zeros_like(labels),
        "next_sentence_weights": tf.ones_like(labels, tf.float32),
    }


def _batches(
    examples: Examples, model: ModelConfig, indices: Callable[[], Iterator[np.ndarray[Any, Any]]]
) -> tf.data.Dataset:
    spec = {f.name: tf.io.FixedLenFeature([f.length], f.dtype) for f in examples.features}
    vocabulary = model.vocab_size

    def serialized() -> Iterator[list[bytes]]:
        for batch in indices():
            yield [examples.records[index] for index in batch]

    def parse(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        features = tf.io.parse_example(batch, spec)
        features = {name: tf.cast(x, tf.int32) if x.dtype == tf.int64 else x for name, x in features.items()}
        # On a GPU, tf.gather gives zeros for ids beyond the table, without a word.
        largest = tf.maximum(tf.reduce_max(features["input_ids"]), tf.reduce_max(features["masked_lm_ids"]))
        message = f"a token id is not below the model's vocab_size {vocabulary}; give --vocab-size"
        with tf.control_dependencies([tf.debugging.assert_less(largest, vocabulary, message)]):
            features = {name: tf.identity(x) for name, x in features.items()}
        return features if examples.packed else padded_layout(features)

    dataset = tf.data.Dataset.from_generator(serialized, output_signature=tf.TensorSpec([None], tf.string))
    return dataset.map(parse, num_parallel_calls=2, deterministic=True).prefetch(4)


def _open_packed(storage: Storage, uri: str, cache: Path) -> Examples:
    manifest = read_manifest(storage, uri)
    if not manifest.packs:
        raise InputError(f"{uri}: expected packs to train on, found none")
    records = Records(fetch_packed(storage, manifest.shards, cache))
    if len(records) != manifest.packs:
        raise InputError(f"{uri}: expected {manifest.packs} packs, found {len(records)}; refresh the dataset")
    features = packed_features(
        manifest.max_sequence_length, manifest.max_predictions_per_sequence, manifest.max_sequences_per_pack
    )
    return Examples(uri, records, features, packed=True, sequences=manifest.sequences, recipe_id=manifest.recipe_id)


def _open_raw(storage: Storage, uri: str, cache: Path) -> Examples:
    records = Records(fetch_raw(storage, list_raw_shards(storage, uri), cache))
    if not len(records):
        raise InputError(f"{uri}: expected sequences to train on, found none")
    features = _raw_features_of(records[0], uri)
    return Examples(uri, records, features, packed=False, sequences=len(records), recipe_id=None)


def _raw_features_of(record: bytes, uri: str) -> tuple[Feature, ...]:
    """The raw schema with the lengths L and P that the first record has; all others must agree."""
    try:
        found = decode_example(record)
        return raw_features(len(found["input_ids"]), len(found["masked_lm_ids"]))
    except ExampleError as exc:
        raise InputError(f"{uri}: first record: expected {exc.expected}, found {exc.found}") from exc
    except KeyError as exc:
        raise InputError(f"{uri}: first record: expected the feature {exc}, found {sorted(found)}") from exc
