"""Training on two replicas with unequal shares against one device; prints a report as JSON. Run by a test."""

from __future__ import annotations

import json
import sys
from typing import Any

import tensorflow as tf

from tests.training.packs import MODEL, group_sequences, pack, stack
from training.config import TrainingConfig
from training.model import Bert
from training.optimizer import Lamb
from training.step import GlobalGradients, Progress, TrainingState, make_train_step

STEPS = 3


def state_in(strategy: Any) -> TrainingState:
    with strategy.scope():
        model = Bert(MODEL, dtype=tf.float64)
        return TrainingState(strategy, model, Lamb(model.weights.values()), Progress())


def difference(some: list[tf.Tensor], others: list[tf.Tensor]) -> float:
    """The norm of all differences over the norm of all of `others`."""
    differences = [a - b for a, b in zip(some, others, strict=True)]
    return float(tf.linalg.global_norm(differences) / tf.linalg.global_norm(others))


def main() -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    batch = stack([pack(group, 3) for group in group_sequences([(10, 9, 13), (5, 25), (32,), (4, 4, 4)])])
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    mirrored, single = state_in(strategy), state_in(tf.distribute.OneDeviceStrategy("CPU:0"))
    share = next(iter(strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(batch))))
    values, _, counts, _ = strategy.run(tf.function(lambda x: tuple(GlobalGradients(mirrored.model)(x))), args=(share,))
    expected = GlobalGradients(single.model)(batch).values
    local = [strategy.experimental_local_results(value) for value in values]
    config = TrainingConfig(("manifest.json",), learning_rate=0.01, seed=0)
    for state, given in ((mirrored, share), (single, batch)):
        train_step = make_train_step(state, config, total_sequences=100)
        for _ in range(STEPS):
            result = train_step(given, tf.constant(1))
    report = {
        "shares": [int(tf.reduce_sum(x)) for x in strategy.experimental_local_results(share["next_sentence_weights"])],
        "sequences": [int(x) for x in strategy.experimental_local_results(counts.sequences)],
        "gradients": [difference([values[replica] for values in local], expected) for replica in range(2)],
        "weights": difference(
            [tf.convert_to_tensor(w) for w in mirrored.model.weights.values()],
            [tf.convert_to_tensor(w) for w in single.model.weights.values()],
        ),
        "progress": [int(x.numpy()) for x in (mirrored.progress.steps, mirrored.progress.sequences)],
        "real_tokens": int(result.counts.real_tokens),
    }
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
