"""LAMB (You et al. 2019, arXiv 1904.00962, algorithm 2) as MLPerf has it, with its schedule and its loss scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak` over `warmup_sequences`, then polynomial decay that reaches 0 at `total_sequences`."""

    peak: float
    warmup_sequences: int
    total_sequences: int
    power: float = 1.0

    def learning_rate(self, sequences: tf.Tensor) -> tf.Tensor:
        """The rate, float32, at a point of training given in sequences (float)."""
        sequences = tf.cast(sequences, tf.float32)
        warmup = sequences / max(self.warmup_sequences, 1)
        left = (self.total_sequences - sequences) / max(self.total_sequences - self.warmup_sequences, 1)
        decay = tf.clip_by_value(left, 0.0, 1.0) ** self.power
        return self.peak * tf.where(sequences < self.warmup_sequences, warmup, decay)


class LossScale(tf.Module):  # type: ignore[misc]
    """What the loss is multiplied with so that float16 gradients do not vanish (Micikevicius et al. 2017, section 3.2).

    It is halved when a gradient overflows, which skips the step, and doubled after so many steps without.
    """

    INITIAL = 2.0**15
    LARGEST = 2.0**24
    STEPS_TO_DOUBLE = 2000

    def __init__(self) -> None:
        super().__init__(name="loss_scale")
        self.value = tf.Variable(self.INITIAL, dtype=tf.float32, trainable=False)
        self.good_steps = tf.Variable(0, dtype=tf.int64, trainable=False)

    def update(self, finite: tf.Tensor) -> None:
        """Take note of a step; `finite` says whether all of its gradients are numbers."""
        good = tf.where(finite, self.good_steps + 1, 0)
        double = good >= self.STEPS_TO_DOUBLE
        larger = tf.where(double, tf.minimum(self.value * 2, self.LARGEST), tf.identity(self.value))
        self.value.assign(tf.where(finite, larger, self.value / 2))
        self.good_steps.assign(tf.where(double, tf.zeros_like(good), good))


def clip_by_global_norm(gradients: Sequence[tf.Tensor], limit: float) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients scaled down to a global norm of `limit` where it is above, and the norm before."""
    norm = tf.linalg.global_norm(gradients)
    clipped, _ = tf.clip_by_global_norm(gradients, limit, use_norm=norm)
    return clipped, norm


class Lamb(tf.Module):  # type: ignore[misc]
    """LAMB with bias correction; weight decay stands inside the trust ratio.

    Vectors (all biases and LayerNorm's weights) have neither decay nor trust ratio. Create it, and update, in the
    cross-replica context of the strategy whose scope holds the variables.
    """

    def __init__(
        self,
        variables: Iterable[tf.Variable],
        *,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__(name="lamb")
        self._variables = list(variables)
        self._weight_decay, self._betas, self._epsilon = weight_decay, (beta_1, beta_2), epsilon
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")
        self.means = [tf.Variable(tf.zeros_like(v), trainable=False, name="m") for v in self._variables]
        self.squares = [tf.Variable(tf.zeros_like(v), trainable=False, name="v") for v in self._variables]

    def update(
        self, strategy: Any, gradients: Sequence[Any], learning_rate: tf.Tensor, finite: tf.Tensor | None = None
    ) -> None:
        """One step, or none where the scalar `finite` is given and False.

        `gradients` are summed over replicas already, so that each replica holds the same values.
        """
        self.updates.assign_add(1 if finite is None else tf.cast(finite, tf.int64))
        for variable, mean, square, gradient in zip(self._variables, self.means, self.squares, gradients, strict=True):
            arguments = (mean, square, gradient, learning_rate, tf.identity(self.updates), finite)
            strategy.extended.update(variable, self._update_one, args=arguments)

    def _update_one(
        self,
        variable: tf.Variable,
        mean: tf.Variable,
        square: tf.Variable,
        gradient: tf.Tensor,
        learning_rate: tf.Tensor,
        updates: tf.Tensor,
        finite: tf.Tensor | None,
    ) -> None:
        def kept(new: tf.Tensor, old: tf.Variable) -> tf.Tensor:
            return new if finite is None else tf.where(finite, new, old)

        beta_1, beta_2 = (tf.constant(beta, variable.dtype) for beta in self._betas)
        new_mean = mean.assign(kept(beta_1 * mean + (1 - beta_1) * gradient, mean))
        new_square = square.assign(kept(beta_2 * square + (1 - beta_2) * tf.square(gradient), square))
        count = tf.cast(updates, variable.dtype)
        unbiased_mean = new_mean / (1 - beta_1**count)
        unbiased_square = new_square / (1 - beta_2**count)
        step = unbiased_mean / (tf.sqrt(unbiased_square) + self._epsilon)
        if variable.shape.rank > 1:
            step += self._weight_decay * variable
            step *= _trust_ratio(tf.norm(variable), tf.norm(step))
        variable.assign(kept(variable - tf.cast(learning_rate, variable.dtype) * step, variable))


def _trust_ratio(weight_norm: tf.Tensor, step_norm: tf.Tensor) -> tf.Tensor:
    both = tf.logical_and(weight_norm > 0, step_norm > 0)
    return tf.where(both, tf.math.divide_no_nan(weight_norm, step_norm), tf.ones_like(weight_norm))
