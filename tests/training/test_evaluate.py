from __future__ import annotations

import math
from pathlib import Path

import pytest
import tensorflow as tf

from packing.in_memory import MemoryStorage
from tests.training.batches import Dataset
from tests.training.packs import MODEL, SEQUENCES
from training.checkpoint import Checkpoints
from training.config import TrainingConfig
from training.devices import open_strategy
from training.errors import DivergedError
from training.evaluate import evaluate_checkpoint
from training.saved import SavedConfig
from training.shards import Cache
from training.step import new_state

pytestmark = pytest.mark.slow


def save_model(storage: MemoryStorage, folder: str, scratch: Path, *, factor: float) -> None:
    """A checkpoint of random weights times `factor`."""
    config = TrainingConfig(("/data/manifests/recipe.json",))
    state = new_state(open_strategy("cpu"), MODEL, config)
    for weight in state.model.weights.values():
        weight.assign(weight * factor)
        assert tf.reduce_all(tf.math.is_finite(weight))
    SavedConfig(MODEL, config, ("recipe",), 1, run_id="").save(storage, folder)
    Checkpoints(storage, folder, state, keep=1, scratch=scratch).save()


def test_losses_that_are_no_numbers_are_an_error(
    storage: MemoryStorage, dataset: Dataset, cache: Cache, tmp_path: Path
) -> None:
    save_model(storage, "/models/sound", tmp_path, factor=1)
    save_model(storage, "/models/diverged", tmp_path, factor=1e36)
    for uri in dataset:
        sound = evaluate_checkpoint(storage, uri, "/models/sound", cache=cache)
        assert sound.sequences == SEQUENCES
        assert math.isfinite(sound.mlm_loss + sound.nsp_loss)
        with pytest.raises(DivergedError, match=f"^{uri}: expected losses that are numbers, .* to go back$") as error:
            evaluate_checkpoint(storage, uri, "/models/diverged", cache=cache)
        assert error.value.exit_status == 3
