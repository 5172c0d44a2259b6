"""MLM and NSP as sums and counts, so that any split of a batch into packs, replicas or steps adds up to the same."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from training.model import Batch, Outputs


class LossSums(NamedTuple):
    """Sums over the masked tokens and the sequences of a batch; scalars of the model's dtype."""

    mlm_loss: tf.Tensor
    mlm_correct: tf.Tensor
    masked_tokens: tf.Tensor
    nsp_loss: tf.Tensor
    nsp_correct: tf.Tensor
    sequences: tf.Tensor


def loss_sums(outputs: Outputs, batch: Batch) -> LossSums:
    """Cross-entropies (natural logarithm) and hits of the highest logit, over real entries only.

    A packed `masked_lm_weights` holds the sequence's number (1.0, 2.0, ...), so every weight above 0 counts as 1.
    """
    dtype = outputs.mlm_logits.dtype
    mlm_weights = tf.cast(batch["masked_lm_weights"] > 0, dtype)
    nsp_weights = tf.cast(batch["next_sentence_weights"] > 0, dtype)
    mlm = _sums(outputs.mlm_logits, batch["masked_lm_ids"], mlm_weights)
    nsp = _sums(outputs.nsp_logits, batch["next_sentence_labels"], nsp_weights)
    return LossSums(*mlm, *nsp)


def mean_loss(sums: LossSums, masked_tokens: tf.Tensor, sequences: tf.Tensor) -> tf.Tensor:
    """The loss to differentiate: MLM per masked token plus NSP per sequence, by the *global* counts given.

    Summed over replicas it is the loss of the whole batch, which a mean of the replicas' means is not.
    """
    one = tf.ones([], masked_tokens.dtype)
    return sums.mlm_loss / tf.maximum(masked_tokens, one) + sums.nsp_loss / tf.maximum(sequences, one)


def _sums(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    correct = tf.cast(tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels), weights.dtype)
    return tf.reduce_sum(losses * weights), tf.reduce_sum(correct * weights), tf.reduce_sum(weights)
