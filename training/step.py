"""The state of a training run, and one step on it as a graph: global gradients on every replica, one LAMB update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from training.config import ModelConfig, TrainingConfig
from training.devices import open_strategy
from training.loss import LossSums, loss_sums, mean_loss
from training.model import Batch, Bert, Dropout
from training.optimizer import Lamb, Schedule, clip_by_global_norm

MAX_GRADIENT_NORM = 1.0


class Progress(tf.Module):  # type: ignore[misc]
    """How far a run has come; saved with every checkpoint. `examples` is the position in the data."""

    def __init__(self) -> None:
        super().__init__(name="progress")
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.examples = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.sequences = tf.Variable(0, dtype=tf.int64, trainable=False)


@dataclass(frozen=True)
class TrainingState:
    """All that a step changes, and the `tf.distribute.Strategy` whose scope it was made in."""

    strategy: Any
    model: Bert
    optimizer: Lamb
    progress: Progress


def new_state(model: ModelConfig, config: TrainingConfig) -> TrainingState:
    """A run at its start: weights drawn from the seed, nothing seen."""
    strategy = open_strategy(config.strategy)
    with strategy.scope():
        bert = Bert(model, seed=config.seed)
        optimizer = Lamb(bert.weights.values(), weight_decay=config.weight_decay)
        return TrainingState(strategy, bert, optimizer, Progress())


class StepResult(NamedTuple):
    """What a step did, summed over replicas; scalars. `gradient_norm` is the norm before clipping."""

    sums: LossSums
    examples: tf.Tensor
    real_tokens: tf.Tensor
    gradient_norm: tf.Tensor
    learning_rate: tf.Tensor


def global_gradients(model: Bert, batch: Batch, dropout: Dropout | None = None) -> tuple[list[tf.Tensor], LossSums]:
    """Gradients of the whole batch's mean loss and the whole batch's sums, the same on every replica.

    Call it in a replica context, with this replica's share of the batch.
    """
    context = tf.distribute.get_replica_context()
    variables = list(model.weights.values())
    with tf.GradientTape() as tape:
        sums = loss_sums(model(batch, dropout), batch)
        total = LossSums(*context.all_reduce(tf.distribute.ReduceOp.SUM, list(sums)))
        loss = mean_loss(sums, total.masked_tokens, total.sequences)
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients), total


def make_train_step(state: TrainingState, schedule: Schedule, seed: int) -> Callable[[Any], StepResult]:
    """A compiled function from one (distributed) batch to the step's result; `seed` is that of the dropout."""
    strategy, progress = state.strategy, state.progress

    def replica_step(batch: Batch) -> tuple[Any, ...]:
        context = tf.distribute.get_replica_context()
        replicas = tf.constant(context.num_replicas_in_sync, tf.int64)
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        gradients, sums = global_gradients(state.model, batch, Dropout(seed, progress.steps * replicas + replica))
        clipped, norm = clip_by_global_norm(gradients, MAX_GRADIENT_NORM)
        slots = batch["input_mask"]
        counts = tf.stack([tf.shape(slots, tf.int64)[0], tf.math.count_nonzero(slots)])
        return clipped, sums, norm, context.all_reduce(tf.distribute.ReduceOp.SUM, counts)

    def step(batch: Any) -> StepResult:
        gradients, *rest = strategy.run(replica_step, args=(batch,))
        # After an all-reduce every replica holds the same values.
        sums, norm, counts = tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], rest)
        # The middle of the step, so that neither the first step nor the last has rate 0.
        seen = tf.cast(progress.sequences, tf.float32) + tf.cast(sums.sequences, tf.float32) / 2
        rate = schedule.learning_rate(seen)
        state.optimizer.update(strategy, gradients, rate)
        progress.steps.assign_add(1)
        progress.examples.assign_add(counts[0])
        progress.sequences.assign_add(tf.cast(sums.sequences, tf.int64))
        return StepResult(sums, counts[0], counts[1], norm, rate)

    compiled: Callable[[Any], StepResult] = tf.function(step)
    return compiled
