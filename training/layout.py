"""From serialized examples to a batch in the packed layout: int32 and float32 tensors, [B, n] by feature."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from packing.features import Feature
from training.checks import assert_valid, clear_padding
from training.model import Batch


def parse_examples(batch: tf.Tensor, features: Sequence[Feature], vocabulary: int) -> dict[str, tf.Tensor]:
    """The packs of serialized examples, string[B], packed or raw; fails for one that is wrong, and says what is.

    Token ids are below `vocabulary`. Values are checked as int64, before they are cut to int32.
    """
    parsed = tf.io.parse_example(batch, {f.name: tf.io.FixedLenFeature([f.length], f.dtype) for f in features})
    packs = clear_padding(parsed if "positions" in parsed else padded_layout(parsed))
    with tf.control_dependencies([assert_valid(packs, vocabulary)]):
        return {name: tf.cast(x, tf.int32) if x.dtype == tf.int64 else tf.identity(x) for name, x in packs.items()}


def padded_layout(raw: Batch) -> dict[str, tf.Tensor]:
    """A batch of raw features as packs that hold one sequence, or none: the packed layout with K = 1 and M = P."""
    mask = raw["input_mask"]
    slots = tf.range(tf.shape(mask)[1], dtype=mask.dtype)
    return {
        **raw,
        "positions": slots[None, :] * mask,
        "next_sentence_positions": tf.zeros_like(raw["next_sentence_labels"]),
        "next_sentence_weights": tf.cast(mask[:, 0][:, None], tf.float32),
    }


def cut_to_width(packs: Batch, width: tf.Tensor) -> dict[str, tf.Tensor]:
    """The same packs without the slots from `width` on, which no sequence of its bucket fills."""
    by_slot = ("input_ids", "input_mask", "segment_ids", "positions")
    return {**packs, **{name: packs[name][:, :width] for name in by_slot}}


def fill_up(packs: Batch, size: int) -> dict[str, tf.Tensor]:
    """Add empty packs, up to `size`: all their features are 0, and weigh nothing."""
    missing = size - tf.shape(packs["input_ids"])[0]
    filled = {name: tf.pad(x, [[0, missing], [0, 0]]) for name, x in packs.items()}
    return {name: tf.ensure_shape(x, [size, *x.shape[1:]]) for name, x in filled.items()}
