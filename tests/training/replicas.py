"""Training on two replicas with unequal shares against one device; prints a report as JSON. Run by a test."""

from __future__ import annotations

import json
import sys
from typing import Any

import tensorflow as tf

from tests.training.packs import MODEL, group_sequences, pack, stack
from training.model import Bert
from training.optimizer import Lamb, Schedule
from training.step import Progress, TrainingState, global_gradients, make_train_step

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
    gradients, sums = strategy.run(tf.function(lambda x: global_gradients(mirrored.model, x)), args=(share,))
    expected, _ = global_gradients(single.model, batch)
    local = [strategy.experimental_local_results(gradient) for gradient in gradients]
    schedule = Schedule(peak=0.01, warmup_sequences=0, total_sequences=100)
    for state, given in ((mirrored, share), (single, batch)):
        train_step = make_train_step(state, schedule, seed=0)
        for _ in range(STEPS):
            result = train_step(given)
    report = {
        "shares": [int(tf.reduce_sum(x)) for x in strategy.experimental_local_results(share["next_sentence_weights"])],
        "sequences": [int(x) for x in strategy.experimental_local_results(sums.sequences)],
        "gradients": [difference([values[replica] for values in local], expected) for replica in range(2)],
        "weights": difference(
            [tf.convert_to_tensor(w) for w in mirrored.model.weights.values()],
            [tf.convert_to_tensor(w) for w in single.model.weights.values()],
        ),
        "progress": [int(x.numpy()) for x in (mirrored.progress.examples, mirrored.progress.sequences)],
        "real_tokens": int(result.real_tokens),
    }
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
