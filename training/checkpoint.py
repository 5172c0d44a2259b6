"""Checkpoints in the model folder: weights, optimizer slots and exact position, written atomically, the last N kept."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from packing.errors import InputError, UsageError
from training.model import Bert
from training.step import TrainingState


class Checkpoints:
    """Saves and restores one run's state below `folder`."""

    def __init__(self, folder: Path, state: TrainingState, *, keep: int) -> None:
        self._progress = state.progress
        self._checkpoint = tf.train.Checkpoint(model=state.model, optimizer=state.optimizer, progress=state.progress)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=keep)

    def restore_latest(self) -> bool:
        """Continue from the latest checkpoint, if there is one."""
        path = self.latest
        if path is None:
            return False
        try:
            self._checkpoint.restore(path).assert_existing_objects_matched()
        except (tf.errors.OpError, AssertionError, ValueError) as exc:
            raise InputError(f"{path}: cannot be restored ({exc}); use another --model-dir") from exc
        return True

    @property
    def latest(self) -> str | None:
        path = self._manager.latest_checkpoint
        return str(path) if path else None

    def save(self) -> str:
        """Save under the number of steps done; gives the checkpoint's path prefix."""
        path = self._manager.save(checkpoint_number=int(self._progress.steps.numpy()))
        return str(path)


def restore_weights(model: Bert, folder: Path) -> None:
    """Load the latest checkpoint's weights into `model`; raises UsageError if there is none."""
    path = tf.train.latest_checkpoint(str(folder))
    if path is None:
        raise UsageError(f"{folder}: expected a checkpoint, found none; give the --model-dir of a training run")
    try:
        tf.train.Checkpoint(model=model).restore(path).expect_partial().assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError, ValueError) as exc:
        raise InputError(f"{path}: cannot be restored ({exc})") from exc
