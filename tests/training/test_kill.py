"""A run that is killed again and again ends as if nothing had happened."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.training.processes import Processes, read_losses, write_training_data

pytestmark = pytest.mark.exhaustive

SECONDS = 1500
STEPS, KILLS = 300, 10
SETTINGS = ["--steps", str(STEPS), "--checkpoint-every", "3", "--sequences-per-step", "6", "--learning-rate", "0.01"]


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    command = ["printing", *write_training_data(tmp_path), *SETTINGS, "--deterministic", "--model-dir"]
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it if the test fails
    kills = np.sort(np.random.default_rng(seed).integers(1, STEPS // 2, KILLS))
    disturbed: dict[int, float] = {}
    with Processes(SECONDS) as processes:
        undisturbed = read_losses(processes.start(*command, str(tmp_path / "undisturbed")))
        for step in kills:
            process = processes.start(*command, str(tmp_path / "disturbed"))
            disturbed |= read_losses(process, until=step)
            process.kill()
            disturbed |= read_losses(process)
            assert process.wait() == -signal.SIGKILL
        process = processes.start(*command, str(tmp_path / "disturbed"))
        last = read_losses(process)
        assert process.wait() == 0
    assert list(undisturbed) == list(range(1, STEPS + 1))
    assert min(last) > 1
    assert {**disturbed, **last} == undisturbed
