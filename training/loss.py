"""MLM and NSP as sums and counts, so that any split of a batch into packs, replicas or steps adds up to the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from training.model import Batch, Outputs


class Counts(NamedTuple):
    """What a batch holds, as scalars of one float dtype; only `slots` count empty examples, which fill up a batch."""

    masked_tokens: tf.Tensor
    sequences: tf.Tensor
    examples: tf.Tensor
    real_tokens: tf.Tensor
    slots: tf.Tensor


class LossSums(NamedTuple):
    """Sums over the masked tokens and the sequences of a batch; scalars of the model's dtype."""

    mlm_loss: tf.Tensor
    mlm_correct: tf.Tensor
    nsp_loss: tf.Tensor
    nsp_correct: tf.Tensor


def count(batch: Batch, dtype: Any) -> Counts:
    """Count a batch, which needs no model: so the divisors of a loss are known before its first micro-batch."""
    sequences = batch["next_sentence_weights"] > 0
    counts = (
        tf.math.count_nonzero(batch["masked_lm_weights"] > 0),
        tf.math.count_nonzero(sequences),
        tf.math.count_nonzero(tf.reduce_any(sequences, axis=1)),
        tf.math.count_nonzero(batch["input_mask"]),
        tf.size(batch["input_mask"]),
    )
    return Counts(*(tf.cast(value, dtype) for value in counts))


def loss_sums(outputs: Outputs, batch: Batch) -> LossSums:
    """Cross-entropies (natural logarithm) and hits of the highest logit, over real entries only.

    A packed `masked_lm_weights` holds the sequence's number (1.0, 2.0, ...), so every weight above 0 counts as 1.
    """
    mlm = _sums(outputs.mlm_logits, batch["masked_lm_ids"], batch["masked_lm_weights"] > 0)
    nsp = _sums(outputs.nsp_logits, batch["next_sentence_labels"], batch["next_sentence_weights"] > 0)
    return LossSums(*mlm, *nsp)


def mean_loss(sums: LossSums, counts: Counts) -> tf.Tensor:
    """The loss to differentiate: MLM per masked token plus NSP per sequence, by the *global* counts given.

    Summed over replicas it is the loss of the whole batch, which a mean of the replicas' means is not.
    """
    one = tf.ones([], counts.masked_tokens.dtype)
    return sums.mlm_loss / tf.maximum(counts.masked_tokens, one) + sums.nsp_loss / tf.maximum(counts.sequences, one)


def means(sums: LossSums, counts: Counts) -> dict[str, float]:
    """The figures to report of sums and counts on the host, by name: losses in nats, and accuracies."""
    masked, sequences = max(counts.masked_tokens, 1.0), max(counts.sequences, 1.0)
    return {
        "mlm_loss": sums.mlm_loss / masked,
        "mlm_accuracy": sums.mlm_correct / masked,
        "nsp_loss": sums.nsp_loss / sequences,
        "nsp_accuracy": sums.nsp_correct / sequences,
    }


def _sums(logits: tf.Tensor, labels: tf.Tensor, real: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    weights = tf.cast(real, logits.dtype)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    correct = tf.cast(tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels), weights.dtype)
    return tf.reduce_sum(losses * weights), tf.reduce_sum(correct * weights)
