"""The state of a training run, and one step on it as a graph: global gradients on every replica, one LAMB update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from training.config import ModelConfig, TrainingConfig
from training.loss import Counts, LossSums, count, loss_sums, mean_loss
from training.model import Batch, Bert, Dropout
from training.optimizer import Lamb, LossScale, Schedule, clip_by_global_norm

MAX_GRADIENT_NORM = 1.0

_DROPOUT_STREAMS = 2**20
"""Dropout streams of one step: its replicas times its micro-batches, at most."""


class Progress(tf.Module):  # type: ignore[misc]
    """How far a run has come; saved with every checkpoint. `steps` alone is the position in the data.

    `eval_mlm_accuracy` is that of the last evaluation, on the held-out data with the number `held_out`.
    """

    def __init__(self) -> None:
        super().__init__(name="progress")
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.sequences = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.eval_mlm_accuracy = tf.Variable(0.0, dtype=tf.float32, trainable=False)
        self.held_out = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.loss_scale = LossScale()


@dataclass(frozen=True)
class TrainingState:
    """All that a step changes, and the `tf.distribute.Strategy` whose scope it was made in."""

    strategy: Any
    model: Bert
    optimizer: Lamb
    progress: Progress


def new_state(strategy: Any, model: ModelConfig, config: TrainingConfig) -> TrainingState:
    """A run at its start: weights drawn from the seed, nothing seen."""
    with strategy.scope():
        bert = Bert(model, seed=config.seed, compute_dtype=tf.dtypes.as_dtype(config.compute_dtype))
        optimizer = Lamb(bert.weights.values(), weight_decay=config.weight_decay)
        return TrainingState(strategy, bert, optimizer, Progress())


class Gradients(NamedTuple):
    """Of a whole batch, the same on every replica. `stops` is how many replicas were asked to stop."""

    values: list[tf.Tensor]
    sums: LossSums
    counts: Counts
    stops: tf.Tensor


class GlobalGradients:
    """Gradients of the mean loss of a batch that is spread over replicas and cut into `micro_batches` on each.

    The result depends on neither: sums are divided by the counts of the whole batch, which are known first. With `xla`,
    forward and backward pass of a micro-batch are one compiled program.
    """

    def __init__(
        self,
        model: Bert,
        *,
        dropout_seed: int = 0,
        micro_batches: int = 1,
        xla: bool = False,
        scale: LossScale | None = None,
    ) -> None:
        self._model, self._seed, self._micro_batches, self._scale = model, dropout_seed, micro_batches, scale
        self._variables = list(model.weights.values())
        self._of_one = tf.function(self._of_micro_batch, jit_compile=True) if xla else self._of_micro_batch

    def __call__(self, batch: Batch, stream: tf.Tensor | None = None, stop: Any = 0) -> Gradients:
        """Call it in a replica context, with this replica's share of the batch, which the micro-batches divide.

        `stream` is the number of the first micro-batch's dropout; None for no dropout. `stop` is 1 to ask for an end.
        """
        context, add = tf.distribute.get_replica_context(), tf.distribute.ReduceOp.SUM
        dtype = self._model.dtype
        *counts, stops = context.all_reduce(add, [*count(batch, dtype), tf.cast(stop, dtype)])
        sums, values = context.all_reduce(add, self._of_share(batch, stream, Counts(*counts)))
        if self._scale is not None:
            values = [value / tf.cast(self._scale.value, dtype) for value in values]
        return Gradients(list(values), LossSums(*sums), Counts(*counts), stops)

    def _of_share(self, batch: Batch, stream: Any, counts: Counts) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Loss sums and gradients of this replica, one micro-batch after the other in a loop of the graph."""
        if self._micro_batches == 1:
            return self._of_one(batch, stream, counts)
        parts = {name: _split(feature, self._micro_batches) for name, feature in batch.items()}

        def add_one(index: tf.Tensor, *totals: Any) -> tuple[Any, ...]:
            part = {name: feature[index] for name, feature in parts.items()}
            here = None if stream is None else stream + tf.cast(index, stream.dtype)
            return index + 1, *tf.nest.map_structure(tf.add, totals, self._of_one(part, here, counts))

        dtype = self._model.dtype
        zeros = [tf.zeros([], dtype) for _ in LossSums._fields], [tf.zeros(v.shape, dtype) for v in self._variables]
        start = (tf.constant(0), *zeros)
        _, sums, values = tf.while_loop(lambda index, *_: index < self._micro_batches, add_one, start)
        return sums, values

    def _of_micro_batch(
        self, batch: Batch, stream: tf.Tensor | None, counts: Counts
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        dropout = None if stream is None else Dropout(self._seed, stream)
        with tf.GradientTape() as tape:
            sums = loss_sums(self._model(batch, dropout), batch)
            loss = mean_loss(sums, counts)
            if self._scale is not None:
                loss *= tf.cast(self._scale.value, loss.dtype)
        return list(sums), [tf.convert_to_tensor(g) for g in tape.gradient(loss, self._variables)]


class StepResult(NamedTuple):
    """What a step did, summed over replicas; scalars. `gradient_norm` is the norm before clipping."""

    sums: LossSums
    counts: Counts
    stops: tf.Tensor
    gradient_norm: tf.Tensor
    learning_rate: tf.Tensor
    loss_scale: tf.Tensor


def make_train_step(state: TrainingState, config: TrainingConfig, total_sequences: int) -> Callable[..., StepResult]:
    """A compiled function from a (distributed) batch, and this worker's wish to stop (0 or 1), to the step's result."""
    strategy, progress = state.strategy, state.progress
    schedule = Schedule(config.learning_rate, config.warmup_sequences, total_sequences, config.decay_power)
    scale = progress.loss_scale if config.compute_dtype == "float16" else None
    gradients_of = GlobalGradients(
        state.model, dropout_seed=config.seed, micro_batches=config.micro_batches, xla=config.xla, scale=scale
    )

    def replica_step(batch: Batch, stop: tf.Tensor) -> tuple[Any, ...]:
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int64)
        stream = progress.steps * _DROPOUT_STREAMS + replica * config.micro_batches
        gradients = gradients_of(batch, stream, stop)
        clipped, norm = clip_by_global_norm(gradients.values, MAX_GRADIENT_NORM)
        return clipped, gradients.sums, gradients.counts, gradients.stops, norm

    def step(batch: Any, stop: tf.Tensor) -> StepResult:
        gradients, *rest = strategy.run(replica_step, args=(batch, stop))
        # After an all-reduce every replica holds the same values.
        sums, counts, stops, norm = tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], rest)
        # The middle of the step, so that neither the first step nor the last has rate 0.
        seen = tf.cast(progress.sequences, tf.float32) + tf.cast(counts.sequences, tf.float32) / 2
        rate = schedule.learning_rate(seen)
        result = StepResult(sums, counts, stops, norm, rate, tf.identity(progress.loss_scale.value))
        finite = None if scale is None else tf.math.is_finite(norm)
        state.optimizer.update(strategy, gradients, rate, finite)
        if scale is not None:
            scale.update(finite)
        progress.steps.assign_add(1)
        progress.sequences.assign_add(tf.cast(counts.sequences, tf.int64))
        return result

    compiled: Callable[..., StepResult] = tf.function(step)
    return compiled


def _split(feature: tf.Tensor, parts: int) -> tf.Tensor:
    """[B, ...] as [parts, B / parts, ...]."""
    shape = tf.shape(feature)
    return tf.reshape(feature, tf.concat([[parts, shape[0] // parts], shape[1:]], axis=0))
