"""From examples to batches in the packed layout; the number of a step alone tells which examples it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from threading import Event

import tensorflow as tf

from packing.errors import InputError, StowageError, UsageError
from training.background import StoppedError
from training.config import ModelConfig
from training.examples import Examples
from training.feed import Slices, read_batches
from training.layout import cut_to_width, fill_up, parse_examples
from training.order import Order, Window, in_order
from training.records import Records

BUCKET_WIDTH = 64


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

    Empty packs fill up the last batches, so that all replicas get as many.
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

    Raises InputError for examples that are not of the expected form, and names the command that finds the record.
    """
    try:
        yield
    except tf.errors.OpError as exc:
        for examples in data:
            if examples.failures:
                raise examples.failures.pop() from exc
        if isinstance(exc, tf.errors.InvalidArgumentError):
            uris, command = [examples.uri for examples in data], "verify" if data[0].packed else "scan"
            commands = " and ".join(f"`python -m packing {command} {uri}`" for uri in uris)
            reason = _reason(exc.message, data[0])
            # Packing knows no vocabulary.
            advice = "" if "vocab_size" in reason else f"; {commands} names a record that is no valid one"
            raise InputError(f"{', '.join(uris)}: {reason}{advice}") from exc
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
    def open_shards(window: Window, stopped: Event) -> list[Records]:
        examples = data[window.data]
        return examples.cache.open(examples.storage, [examples.shards[n] for n in window.shards], stopped)

    def closed() -> bool:
        return any(examples.closed.is_set() for examples in data)

    def serialized() -> Iterator[tuple[list[bytes], int]]:
        try:
            yield from read_batches(windows(), open_shards, slices, start=start, closed=closed)
        except StoppedError:
            return
        except StowageError as exc:
            data[0].failures.append(exc)
            raise

    def parse(batch: tf.Tensor, width: tf.Tensor) -> dict[str, tf.Tensor]:
        packs = parse_examples(batch, data[0].features, model.vocab_size)
        return fill_up(cut_to_width(packs, width) if bucketed else packs, slices.size)

    signature = (tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int32))
    dataset = tf.data.Dataset.from_generator(serialized, output_signature=signature)
    options = tf.data.Options()
    # Its thread may hold up a process that ends for a minute, and nothing here is left to tune.
    options.autotune.enabled = False
    return dataset.map(parse, num_parallel_calls=2, deterministic=True).prefetch(4).with_options(options)


def _slices(batch_size: int, shares: Collection[int], replicas: int) -> Slices:
    if batch_size % replicas:
        raise UsageError(f"expected a number of examples a step that {replicas} replicas divide, got {batch_size}")
    return Slices(batch_size // replicas, replicas, shares)


def _shapes(examples: Examples) -> str:
    return ", ".join(f"{f.name}[{f.length}]" for f in examples.features)


def _reason(message: str, examples: Examples) -> str:
    """What `training.checks` or the parser says, without the names of the nodes around it."""
    if found := re.search(r"assertion failed: \[(.*?)\](?=\s|$)", message):
        return found[1]
    found = re.search(r"Name: <unknown>, (.*)", message)
    return f"expected examples of {_shapes(examples)}, found another: {found[1] if found else message.splitlines()[0]}"
