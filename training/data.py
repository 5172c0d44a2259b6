"""From manifests and raw prefixes to batches in the packed layout; the number of a step alone tells its examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event

import numpy as np
import tensorflow as tf

from packing.errors import InputError, StowageError, UsageError
from packing.example import encode_example
from packing.features import Feature, packed_features
from packing.manifest import read_manifest
from packing.ports import Storage
from packing.scan import list_raw_shards
from training.config import ModelConfig, is_manifest
from training.feed import Slices, read_batches
from training.layout import cut_to_width, padded_layout, parse_examples
from training.order import Order, Sizes, Window, in_order
from training.raw_index import index_raw_shards, raw_features_of
from training.records import Records, Shard
from training.shards import Cache

BUCKET_WIDTH = 64
_SEGMENTS = 2


@dataclass(frozen=True, eq=False)
class Examples:
    """A dataset, of which no more is local than its cache holds; every example has these `features`.

    An example is a pack (`packed`), or a padded raw sequence, which is then a pack of one. `recipe_id` is None for raw
    data. `failures` are the errors by which reading it ended, for `batch_errors`.
    """

    uri: str
    storage: Storage
    cache: Cache
    shards: tuple[Shard, ...]
    features: tuple[Feature, ...]
    packed: bool
    sequences: int
    recipe_id: str | None
    failures: list[StowageError] = field(default_factory=list)

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


def training_order(data: Sequence[Examples], *, mode: str, batch_size: int, seed: int) -> Order:
    """The order in which a run reads `data`; raises UsageError for datasets that do not go together or with `mode`."""
    first = data[0]
    for other in data:
        if (other.features, other.sequences) != (first.features, first.sequences):
            raise UsageError(
                f"{other.uri}: expected the features and the {first.sequences} sequences of {first.uri}, found "
                f"{other.sequences} sequences of {_shapes(other)} instead of {_shapes(first)}"
            )
        if (mode == "packed") != other.packed:
            kind = "packed" if other.packed else "raw"
            raise UsageError(f"{other.uri}: mode {mode} cannot read {kind} data")
        if mode == "bucketed" and any(shard.lengths is None for shard in other.shards):
            raise UsageError(f"{other.uri}: mode bucketed needs the sequences' lengths; open it with them")
    return Order(
        [examples.sizes for examples in data],
        batch_size,
        seed,
        first.cache.window_bytes,
        BUCKET_WIDTH if mode == "bucketed" else None,
    )


def training_batches(
    data: Sequence[Examples],
    model: ModelConfig,
    *,
    mode: str,
    batch_size: int,
    seed: int,
    start: int,
    shares: Collection[int],
    replicas: int,
) -> tf.data.Dataset:
    """Endless shuffled batches from step `start` on: of each step of `batch_size` examples, those of `shares`.

    A step is cut into `replicas` equal slices, numbered from 0; each of `shares` gives one batch of batch_size /
    replicas examples. Epoch e reads `data[e mod len(data)]`. In mode "bucketed", features of L slots are cut to the
    width of the step's bucket.
    """
    order = training_order(data, mode=mode, batch_size=batch_size, seed=seed)
    slices = _slices(batch_size, shares, replicas)
    return _batches(data, model, lambda: order.windows(start), slices, start, bucketed=mode == "bucketed")


def evaluation_batches(
    examples: Examples,
    model: ModelConfig,
    *,
    batch_size: int,
    limit: int | None = None,
    shares: Collection[int] = (0,),
    replicas: int = 1,
) -> tf.data.Dataset:
    """The first `limit` examples (all by default), once and in order, in batches of `batch_size` for each replica.

    Empty examples fill up the last batches, so that all replicas get as many.
    """
    together = batch_size * replicas

    def windows() -> Iterator[Window]:
        return in_order(examples.sizes, batch_size=together, window_bytes=examples.cache.window_bytes, limit=limit)

    return _batches([examples], model, windows, _slices(together, shares, replicas), 0, bucketed=False)


def shards_read(data: Sequence[Examples], *, mode: str, batch_size: int, seed: int, step: int) -> list[str]:
    """The URIs of the shards that hold the examples of a step."""
    order = training_order(data, mode=mode, batch_size=batch_size, seed=seed)
    return [data[number].shards[shard].uri for number, shard in order.shards_of(step)]


@contextmanager
def batch_errors(data: Sequence[Examples]) -> Iterator[None]:
    """Where batches of `data` are taken: raises what ended the reading, which tf.data has as the text of its own error.

    Raises InputError for examples that are not of the expected form.
    """
    try:
        yield
    except tf.errors.OpError as exc:
        for examples in data:
            if examples.failures:
                raise examples.failures.pop() from exc
        if isinstance(exc, tf.errors.InvalidArgumentError):
            raise InputError(f"{', '.join(examples.uri for examples in data)}: {_reason(exc.message)}") from exc
        raise


def _batches(
    data: Sequence[Examples],
    model: ModelConfig,
    windows: Callable[[], Iterator[Window]],
    slices: Slices,
    start: int,
    *,
    bucketed: bool,
) -> tf.data.Dataset:
    features, packed = data[0].features, data[0].packed
    empty = encode_example({f.name: np.zeros(f.length, f.dtype) for f in features})

    def open_shards(window: Window, stopped: Event) -> list[Records]:
        examples = data[window.data]
        return examples.cache.open(examples.storage, [examples.shards[n] for n in window.shards], stopped)

    def serialized() -> Iterator[tuple[list[bytes], int]]:
        try:
            yield from read_batches(windows(), open_shards, slices, start=start, empty=empty)
        except StowageError as exc:
            data[0].failures.append(exc)
            raise

    def parse(batch: tf.Tensor, width: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = parse_examples(batch, features, model.vocab_size)
        parsed = cut_to_width(parsed, width) if bucketed else parsed
        return parsed if packed else padded_layout(parsed)

    signature = (tf.TensorSpec([slices.size], tf.string), tf.TensorSpec([], tf.int32))
    dataset = tf.data.Dataset.from_generator(serialized, output_signature=signature)
    return dataset.map(parse, num_parallel_calls=2, deterministic=True).prefetch(4)


def _slices(batch_size: int, shares: Collection[int], replicas: int) -> Slices:
    if batch_size % replicas:
        raise UsageError(f"expected a number of examples a step that {replicas} replicas divide, got {batch_size}")
    return Slices(batch_size // replicas, replicas, shares)


def _shapes(examples: Examples) -> str:
    return ", ".join(f"{f.name}[{f.length}]" for f in examples.features)


def _reason(message: str) -> str:
    """What an assertion in the graph or the parser says, without the names of the nodes around it."""
    found = re.search(r"assertion failed: \[(.*?)\] \[|Name: <unknown>, (.*)", message)
    return (found[1] or found[2]).replace("\\", "") if found else message.splitlines()[0]


def _open_packed(storage: Storage, uri: str, cache: Cache) -> Examples:
    manifest = read_manifest(storage, uri)
    if not manifest.packs:
        raise InputError(f"{uri}: expected packs to train on, found none")
    features = packed_features(
        manifest.max_sequence_length, manifest.max_predictions_per_sequence, manifest.max_sequences_per_pack
    )
    shards = tuple(Shard(shard.uri, shard.bytes, shard.packs, shard.sha256) for shard in manifest.shards)
    return Examples(
        uri, storage, cache, shards, features, packed=True, sequences=manifest.sequences, recipe_id=manifest.recipe_id
    )


def _open_raw(storage: Storage, uri: str, cache: Cache, *, lengths: bool) -> Examples:
    listed = list_raw_shards(storage, uri)
    shards = tuple(index_raw_shards(storage, cache, listed, lengths=lengths))
    filled = next((shard for shard in shards if shard.examples), None)
    if not filled:
        raise InputError(f"{uri}: expected sequences to train on, found none")
    features = raw_features_of(cache.open_shard(storage, filled)[0], uri)
    sequences = sum(shard.examples for shard in shards)
    return Examples(uri, storage, cache, shards, features, packed=False, sequences=sequences, recipe_id=None)
