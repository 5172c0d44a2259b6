from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from packing.errors import InputError
from packing.in_memory import MemoryStorage
from tests.training.packs import MODEL, raw_sequences, shard_bytes
from training.config import TrainingConfig
from training.devices import Worker, open_strategy
from training.examples import Examples, open_examples
from training.loop import Plan, Stepper
from training.shards import Cache
from training.step import new_state

pytestmark = pytest.mark.slow

SLOTS = 192
WIDE = replace(MODEL, num_hidden_layers=1, max_position_embeddings=SLOTS)
LENGTHS = [20, 50, 100, 120, 150, 190] * 2


@pytest.fixture
def stepper(tmp_path: Path) -> Iterator[Stepper]:
    storage = MemoryStorage()
    storage.write("/raw/part-0", shard_bytes(raw_sequences(LENGTHS, slots=SLOTS)))
    config = TrainingConfig(("/raw",), mode="bucketed", sequences_per_step=2)
    with closing(open_examples(storage, "/raw", Cache(tmp_path), lengths=True)) as data:
        yield make_stepper(data, config)


def make_stepper(data: Examples, config: TrainingConfig) -> Stepper:
    strategy = open_strategy("cpu")
    return Stepper(new_state(strategy, WIDE, config), Worker(), [data], config, Plan.of(config, data, 1))


def test_the_first_step_of_each_width_is_not_timed(stepper: Stepper) -> None:
    figures = [stepper()[0] for _ in range(2 * len(LENGTHS))]
    widths = [step.slots // 2 for step in figures]
    assert set(widths) == {64, 128, 192}
    assert [step.timed for step in figures] == [width in widths[:step] for step, width in enumerate(widths)]


def test_a_batch_that_cannot_be_computed_names_its_step_and_shards(stepper: Stepper) -> None:
    """No batch from the readers is like this; a device may refuse one all the same."""
    step = stepper._train_step
    stepper._train_step = lambda batch, stop: step({**batch, "positions": batch["positions"] + SLOTS}, stop)
    with pytest.raises(InputError, match=r"^step 1: expected a batch .*\(indices.*\); it read /raw/part-0$"):
        stepper()
