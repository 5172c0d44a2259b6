"""Wrong data on two replicas of one process: prints the errors that training and evaluation meet. Run by a test."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf

from packing.errors import InputError
from packing.in_memory import MemoryStorage
from tests.training.packs import MODEL, raw_sequences, shard_bytes
from training.config import TrainingConfig
from training.devices import Worker
from training.evaluate import Evaluator
from training.examples import open_examples
from training.loop import Plan, Stepper
from training.shards import Cache
from training.step import new_state

REPLICAS = 2


def main() -> None:
    """Read seven sound examples and a wrong one, which only the second replica gets to evaluate."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(REPLICAS)])
    *sound, wrong = raw_sequences([5] * 8)
    storage = MemoryStorage()
    storage.write("/data/raw/part-0", shard_bytes([*sound, {**wrong, "segment_ids": wrong["segment_ids"] + 9}]))
    examples = open_examples(storage, "/data/raw", Cache(Path(sys.argv[1])))
    config = TrainingConfig(("/data/raw",), mode="padded")
    state = new_state(strategy, MODEL, config)
    stepper = Stepper(state, Worker(), [examples], config, Plan(8, 8, steps=1))
    for compute in (stepper, Evaluator(strategy, Worker(), state.model, examples, batch_size=2)):
        try:
            compute()
        except InputError as exc:
            sys.stdout.write(f"{exc}\n")


if __name__ == "__main__":
    main()
