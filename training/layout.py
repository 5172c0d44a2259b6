"""From serialized examples to a batch in the packed layout: int32 and float32 tensors, [B, n] by feature."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from packing.features import Feature
from training.model import Batch


def parse_examples(batch: tf.Tensor, features: Sequence[Feature], vocabulary: int) -> dict[str, tf.Tensor]:
    """The features of serialized examples, string[B]; fails where one is missing or a token id >= `vocabulary`."""
    parsed = tf.io.parse_example(batch, {f.name: tf.io.FixedLenFeature([f.length], f.dtype) for f in features})
    parsed = {name: tf.cast(x, tf.int32) if x.dtype == tf.int64 else x for name, x in parsed.items()}
    return _checked(parsed, vocabulary)


def _checked(batch: Batch, vocabulary: int) -> dict[str, tf.Tensor]:
    """The same, if all token ids are below `vocabulary`: on a GPU tf.gather gives zeros for others, without a word."""
    largest = tf.maximum(tf.reduce_max(batch["input_ids"]), tf.reduce_max(batch["masked_lm_ids"]))
    message = f"a token id is not below the model's vocab_size {vocabulary}; give --vocab-size"
    with tf.control_dependencies([tf.debugging.assert_less(largest, vocabulary, message)]):
        return {name: tf.identity(x) for name, x in batch.items()}


def cut_to_width(raw: Batch, width: tf.Tensor) -> dict[str, tf.Tensor]:
    """A batch of raw features without the slots from `width` on, which no sequence of its bucket fills."""
    return {**raw, **{name: raw[name][:, :width] for name in ("input_ids", "input_mask", "segment_ids")}}


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
