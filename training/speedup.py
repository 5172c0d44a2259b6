"""What packing buys: the same model on the same raw data, packed and padded, step by step in one process.

Both take the same number of sequences a step on average. Packed and padded steps alternate, so that whatever else the
machine does slows both; the first step of each (tracing) is left out; the speed-up is the median over pairs of steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from packing.errors import UsageError
from packing.ports import Storage
from training.config import ModelConfig, TrainingConfig, is_manifest
from training.data import Examples, check_model, open_examples, training_batches
from training.optimizer import Schedule
from training.step import TrainingState, make_train_step, new_state
from training.train import batch_size


@dataclass(frozen=True)
class Speedup:
    """`speedup` is packed over padded sequences per second of wall time; `packing_factor` is its ideal."""

    speedup: float
    packing_factor: float
    packed_sequences_per_second: float
    padded_sequences_per_second: float
    packed_seconds_per_step: float
    padded_seconds_per_step: float
    packs_per_step: int
    sequences_per_step: int
    steps: int


def measure_speedup(
    storage: Storage, model: ModelConfig, *, manifest: str, raw: str, cache: Path, steps: int, sequences_per_step: int
) -> Speedup:
    """Time `steps` steps of each mode on the CPU; nothing is saved or tracked."""
    if not is_manifest(manifest) or is_manifest(raw):
        raise UsageError(f"expected a manifest (.json) and a raw prefix, got {manifest!r} and {raw!r}")
    state = new_state(model, TrainingConfig(manifest))
    packed, padded = open_examples(storage, manifest, cache), open_examples(storage, raw, cache)
    packs = batch_size(packed, sequences_per_step)
    take_packed, take_padded = _stepper(state, packed, packs), _stepper(state, padded, sequences_per_step)
    pairs = [(take_packed(), take_padded()) for _ in range(steps + 1)][1:]
    packed_seconds, padded_seconds = (median(column) for column in zip(*pairs, strict=True))
    # A step's time does not depend on what its packs hold, so its sequences are best taken as their mean.
    packed_sequences = packs * packed.packing_factor
    time_ratio = median(padded_time / packed_time for packed_time, padded_time in pairs)
    return Speedup(
        speedup=time_ratio * packed_sequences / sequences_per_step,
        packing_factor=packed.packing_factor,
        packed_sequences_per_second=packed_sequences / packed_seconds,
        padded_sequences_per_second=sequences_per_step / padded_seconds,
        packed_seconds_per_step=packed_seconds,
        padded_seconds_per_step=padded_seconds,
        packs_per_step=packs,
        sequences_per_step=sequences_per_step,
        steps=steps,
    )


def _stepper(state: TrainingState, examples: Examples, size: int) -> Callable[[], float]:
    """A function that takes one step of `size` examples and gives its seconds."""
    check_model(examples, state.model.config)
    batches = training_batches(examples, state.model.config, batch_size=size, seed=0)
    iterator = iter(state.strategy.experimental_distribute_dataset(batches))
    train_step = make_train_step(state, Schedule(peak=1e-4, warmup_sequences=0, total_sequences=examples.sequences), 0)

    def take_step() -> float:
        started = time.perf_counter()
        float(train_step(next(iterator)).gradient_norm)
        return time.perf_counter() - started

    return take_step
