"""How much is measured, and where: the sizes of a full and of a quick run, and the folders of this one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
MAX_SEQUENCE_LENGTH, MAX_PREDICTIONS_PER_SEQUENCE, MAX_SEQUENCES_PER_PACK = 512, 76, 3
SHARDS_PER_UNIT = 8


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Raw data comes in units of `unit_bytes` in SHARDS_PER_UNIT shards; `throughput_units`, `store_units` and
    `growth_units` say how many of them a part takes, and `baseline_shards` how many shards the slow baseline gets.
    `repeats` is how often things that are compared take turns; a figure is the median. Solving all of
    `shuffled_sequences` partition by partition is tried at each of `partition_sequences`, at
    the smallest on `smallest_shuffled_sequences` only. `train_steps` training steps of `train_examples` are timed,
    losses are compared after `train_sequences` from `train_seeds` seeds, and the metrics of `handed_over` steps are
    handed over. The page "Packing" is asked `page_requests` times for each of its pages over `page_recipes` recipes and
    `page_trainings` trainings.
    """

    repeats: int = 3
    unit_bytes: int = 256 * 10**6
    throughput_units: int = 4
    store_units: int = 8
    growth_units: tuple[int, ...] = (1, 4, 16)
    baseline_shards: int = 1
    with_tensorflow: bool = True
    with_nnls: bool = True
    log_normal_slots: tuple[int, ...] = (2048, 4096, 8192)
    log_normal_sequences: int = 5_000_000
    random_histograms: int = 400
    partition_seeds: int = 40
    partition_sequences: tuple[int, ...] = (10_000, 50_000, 300_000)
    shuffled_sequences: int | None = None  # all that the histogram has
    smallest_shuffled_sequences: int = 1_000_000
    train_examples: int = 4
    train_steps: int = 15
    train_sequences: int = 480
    train_seeds: int = 3
    handed_over: int = 3000
    page_recipes: int = 1000
    page_trainings: int = 200
    page_requests: int = 20


FULL = Sizes()
QUICK = Sizes(
    repeats=1,
    unit_bytes=4 * 10**6,
    throughput_units=1,
    store_units=1,
    growth_units=(1, 2, 4),
    with_tensorflow=False,
    with_nnls=False,
    log_normal_slots=(2048,),
    random_histograms=10,
    partition_seeds=2,
    partition_sequences=(1_000, 5_000),
    shuffled_sequences=20_000,
    smallest_shuffled_sequences=5_000,
    handed_over=100,
    page_recipes=5,
    page_trainings=2,
    page_requests=2,
)


@dataclass(frozen=True)
class Bench:
    """One run of the benchmarks: `data` is where published histograms and sample records may be, `scratch` is empty."""

    sizes: Sizes
    data: Path
    scratch: Path


def say(line: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
