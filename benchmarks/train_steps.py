"""CPU time of training steps on the same raw data: packed (also with the mask of padded training), padded and bucketed.

    python -m benchmarks.train_steps MANIFEST RAW_PREFIX FOLDER EXAMPLES STEPS

Steps of EXAMPLES packs or sequences take turns, so that whatever else the machine does slows all of them; the first of
each, which is mostly tracing, is not counted. FOLDER is for local copies. Prints a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import tensorflow as tf

import training.model
from packing.adapters.local import LocalStorage
from training.config import MODELS, TrainingConfig
from training.data import training_batches, training_order
from training.devices import Worker, open_strategy
from training.examples import Examples, open_examples
from training.loop import Plan, Stepper
from training.shards import Cache
from training.step import TrainingState, make_train_step, new_state

_STEPS_OF_A_WIDTH = 3


def main() -> None:
    """Measure and print."""
    manifest, raw, folder = sys.argv[1:4]
    size, steps = map(int, sys.argv[4:])
    cache = Cache(Path(folder))
    packed, padded = (open_examples(LocalStorage(), uri, cache, lengths=True) for uri in (manifest, raw))
    state = new_state(open_strategy("cpu"), MODELS["tiny"], TrainingConfig((manifest,)))
    steppers = {"packed": _stepper(state, packed, "packed", size), "padded": _stepper(state, padded, "padded", size)}
    with _mask_of_padded_training():
        steppers["padding_mask"] = _stepper(state, packed, "packed", size)
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for turn in range(steps):
        for name in list(steppers)[:: -1 if turn % 2 else 1]:
            seconds[name].append(_cpu_seconds(steppers[name]))
    result = {
        "packing_factor": packed.packing_factor,
        "seconds": seconds,
        "bucketed_over_padded": _bucketed_over_padded(state, padded, size, steppers["padded"]),
    }
    sys.stdout.write(json.dumps(result) + "\n")


def _stepper(state: TrainingState, examples: Examples, mode: str, size: int) -> Stepper:
    """What takes steps of `size` examples; the first is taken already."""
    config = TrainingConfig((examples.uri,), mode=mode)
    stepper = Stepper(state, Worker(), [examples], config, Plan(size, examples.sequences, steps=None))
    stepper()
    return stepper


def _cpu_seconds(take_step: Callable[[], object]) -> float:
    started = time.process_time()
    take_step()
    return time.process_time() - started


@contextmanager
def _mask_of_padded_training() -> Iterator[None]:
    """Steps traced within have a mask of [B, 1, 1, L], by which every token of a pack sees all others."""

    def bias(input_mask: tf.Tensor, dtype: Any) -> tf.Tensor:
        return tf.where(input_mask > 0, tf.zeros([], dtype), tf.constant(dtype.min / 2, dtype))[:, None, None, :]

    block_diagonal = training.model.attention_bias
    training.model.attention_bias = bias
    try:
        yield
    finally:
        training.model.attention_bias = block_diagonal


def _bucketed_over_padded(state: TrainingState, padded: Examples, size: int, padded_step: Stepper) -> float:
    """CPU seconds of an epoch in mode bucketed over those of a padded one.

    That is how often steps of each width come, times what they take compared with padded steps beside them.
    """
    config = TrainingConfig((padded.uri,), mode="bucketed")
    settings = {"mode": config.mode, "batch_size": size, "seed": config.seed}
    train_step = make_train_step(state, config, padded.sequences)
    widths = next(training_order([padded], **settings).windows(0)).widths.tolist()
    total = 0.0
    for width, steps in Counter(widths).items():
        place = {"start": widths.index(width), "shares": [0], "replicas": 1}
        batch = next(iter(training_batches([padded], state.model.config, **settings, **place)))
        bucketed_step = partial(train_step, batch, tf.constant(0))
        bucketed_step()
        pairs = [(_cpu_seconds(bucketed_step), _cpu_seconds(padded_step)) for _ in range(_STEPS_OF_A_WIDTH)]
        total += steps * median(bucketed / padded for bucketed, padded in pairs)
    return total / (padded.sequences / size)


if __name__ == "__main__":
    main()
