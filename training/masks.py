"""The attention mask of packs: a sequence sees itself and nothing else (Krell et al. 2021, arXiv 2107.02027)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def attention_bias(input_mask: tf.Tensor, dtype: Any) -> tf.Tensor:
    """What to add to attention scores: 0 within a sequence, a large negative number elsewhere.

    Takes int32[B, L], the number (1..K) of the sequence that owns each slot and 0 for padding; gives dtype[B, 1, L, L],
    to be shared by all heads and layers. A 0/1 mask of padded data is the case of one sequence. The number is finite,
    so that the softmax of a padding slot, which may see nothing, is not NaN; half the dtype's minimum leaves room for
    the score and still underflows to an exact zero.
    """
    queries, keys = input_mask[:, :, None], input_mask[:, None, :]
    visible = tf.logical_and(tf.equal(queries, keys), keys > 0)
    blocked = tf.constant(dtype.min / 2, dtype)
    return tf.where(visible, tf.zeros([], dtype), blocked)[:, None, :, :]
