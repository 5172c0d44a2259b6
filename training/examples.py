"""A dataset to train or to evaluate on: what a manifest lists, or what lies below a raw prefix."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event

import numpy as np

from packing.errors import InputError, StowageError, UsageError
from packing.features import Feature, packed_features
from packing.listing import list_raw_shards
from packing.manifest import read_manifest
from packing.ports import Storage
from packing.types import Manifest
from training.config import ModelConfig, is_manifest
from training.order import Sizes
from training.raw_index import index_raw_shards, raw_features_of
from training.records import Shard
from training.shards import Cache

_SEGMENTS = 2


@dataclass(frozen=True, eq=False)
class Examples:
    """A dataset, of which no more is local than its cache holds; every example has these `features`.

    An example is a pack, or a padded raw sequence, which is then a pack of one. `manifest` is None for raw data.
    `failures` are the errors by which reading it ended, for `training.data.batch_errors`.
    """

    uri: str
    storage: Storage
    cache: Cache
    shards: tuple[Shard, ...]
    features: tuple[Feature, ...]
    sequences: int
    manifest: Manifest | None
    failures: list[StowageError] = field(default_factory=list)
    closed: Event = field(default_factory=Event)

    def close(self) -> None:
        """End the batches that wait for shards.

        Do so before an iterator over them is dropped: TensorFlow waits for what it prefetches, so a process that saved
        and wants to end would otherwise wait for a window that nobody will read.
        """
        self.closed.set()

    @property
    def packed(self) -> bool:
        return self.manifest is not None

    @property
    def recipe_id(self) -> str | None:
        return self.manifest.recipe_id if self.manifest else None

    @property
    def identity(self) -> str:
        """What a resumed run must find again: the recipe's id, or the raw prefix."""
        return self.recipe_id or self.uri

    @property
    def count(self) -> int:
        return sum(shard.examples for shard in self.shards)

    @property
    def max_sequence_length(self) -> int:
        return self.features[0].length

    @property
    def masked_slots(self) -> int:
        return next(feature.length for feature in self.features if feature.name == "masked_lm_ids")

    @property
    def packing_factor(self) -> float:
        return self.sequences / self.count

    @property
    def sizes(self) -> Sizes:
        """What an order needs to know of the shards."""
        counts = np.array([shard.examples for shard in self.shards], np.int64)
        size = np.array([shard.bytes for shard in self.shards], np.int64)
        return Sizes(counts, size, tuple(shard.lengths for shard in self.shards if shard.lengths is not None))


def open_examples(storage: Storage, uri: str, cache: Cache, *, lengths: bool = False) -> Examples:
    """The examples of a manifest, or below a raw prefix, whose shards are read once if `cache` does not know them.

    With `lengths`, those of raw sequences are found too, which buckets need. Raises InputError for a dataset without
    examples or with wrong ones, UsageError if the cache is too small for its shards.
    """
    examples = (
        _open_packed(storage, uri, cache) if is_manifest(uri) else _open_raw(storage, uri, cache, lengths=lengths)
    )
    cache.check_fits(examples.shards)
    return examples


def check_model(examples: Examples, model: ModelConfig) -> None:
    """Raise UsageError if the model has fewer position embeddings than the data has slots, or too few segments."""
    if examples.max_sequence_length > model.max_position_embeddings:
        raise UsageError(
            f"{examples.uri}: its max_sequence_length {examples.max_sequence_length} exceeds the model's "
            f"max_position_embeddings {model.max_position_embeddings}; give --model a .json with more"
        )
    if model.type_vocab_size < _SEGMENTS:
        raise UsageError(
            f"{examples.uri}: its segment_ids are 0 and 1, the model's type_vocab_size is {model.type_vocab_size}; "
            f"give --model a .json with {_SEGMENTS}"
        )


def _open_packed(storage: Storage, uri: str, cache: Cache) -> Examples:
    manifest = read_manifest(storage, uri)
    if not manifest.packs:
        raise InputError(f"{uri}: expected packs to train on, found none")
    features = packed_features(
        manifest.max_sequence_length, manifest.max_predictions_per_sequence, manifest.max_sequences_per_pack
    )
    shards = tuple(Shard(shard.uri, shard.bytes, shard.packs, shard.sha256) for shard in manifest.shards)
    return Examples(uri, storage, cache, shards, features, manifest.sequences, manifest)


def _open_raw(storage: Storage, uri: str, cache: Cache, *, lengths: bool) -> Examples:
    listed = list_raw_shards(storage, uri)
    shards = tuple(index_raw_shards(storage, cache, listed, lengths=lengths))
    filled = next((shard for shard in shards if shard.examples), None)
    if not filled:
        raise InputError(f"{uri}: expected sequences to train on, found none")
    (records,) = cache.open(storage, [filled])
    features = raw_features_of(records[0], uri)
    sequences = sum(shard.examples for shard in shards)
    return Examples(uri, storage, cache, shards, features, sequences, manifest=None)
