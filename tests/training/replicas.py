"""Gradients on two replicas with unequal shares against one device; prints a report as JSON. Run by a test."""

from __future__ import annotations

import json
import sys

import tensorflow as tf

from tests.training.packs import MODEL, group_sequences, pack, stack
from training.model import Bert
from training.step import global_gradients


def main() -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    groups = group_sequences([(10, 9, 13), (5, 25), (32,), (4, 4, 4)])
    batch = stack([pack(group, 3) for group in groups])
    shares = [{name: values[part] for name, values in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        mirrored = Bert(MODEL, dtype=tf.float64)
    distributed = strategy.experimental_distribute_values_from_function(
        lambda context: {name: tf.constant(x) for name, x in shares[context.replica_id_in_sync_group].items()}
    )
    gradients, sums = strategy.run(tf.function(lambda x: global_gradients(mirrored, x)), args=(distributed,))
    expected, _ = global_gradients(Bert(MODEL, dtype=tf.float64), batch)
    differences = []
    for replica in range(2):
        local = [strategy.experimental_local_results(gradient)[replica] for gradient in gradients]
        error = tf.linalg.global_norm([a - b for a, b in zip(local, expected, strict=True)])
        differences.append(float(error / tf.linalg.global_norm(expected)))
    report = {
        "shares": [int(share["next_sentence_weights"].sum()) for share in shares],
        "sequences": [int(value) for value in strategy.experimental_local_results(sums.sequences)],
        "differences": differences,
    }
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
