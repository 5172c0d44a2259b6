"""What the training benchmarks run in processes of their own, at tiny sizes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.measure import module, run
from packing.adapters.local import LocalStorage
from tests.training.packs import GROUPS, write_dataset

pytestmark = pytest.mark.slow


def test_steps_take_turns_and_every_width_is_timed(tmp_path: Path) -> None:
    manifest, raw = write_dataset(LocalStorage(), str(tmp_path))
    cost = run(module("train_steps", manifest, raw, str(tmp_path / "cache"), "2", "3"), dict(os.environ))
    seconds = cost.result["seconds"]
    assert set(seconds) == {"packed", "padded", "padding_mask"}
    assert all(len(some) == 3 and min(some) > 0 for some in seconds.values())
    assert cost.result["packing_factor"] == sum(map(len, GROUPS)) / len(GROUPS)
    assert cost.result["bucketed_over_padded"] > 0


def test_losses_are_of_both_modes_and_every_seed(tmp_path: Path) -> None:
    manifest, raw = write_dataset(LocalStorage(), str(tmp_path))
    cost = run(module("train_losses", manifest, raw, raw, str(tmp_path / "runs"), "60", "2"), dict(os.environ))
    losses = cost.result["mlm_losses"]
    assert set(losses) == {"packed", "padded"}
    assert all(len(set(some)) == 2 and max(some) < 10.3 for some in losses.values())
