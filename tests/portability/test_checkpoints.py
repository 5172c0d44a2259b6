"""The last TensorFlow for Gaudi and the newest one compute the same, and take over each other's checkpoints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.training.processes import Metrics, Processes, read_metrics, write_training_data

pytestmark = pytest.mark.exhaustive

VARIABLE = "STOWAGE_TF215_PYTHON"
SECONDS = 500
STEPS, KEPT = 8, 4
FLOAT32_ROUNDING = 1e-5


@dataclass(frozen=True)
class Trained:
    """A run of STEPS steps with checkpoints after KEPT and after all of them."""

    folder: Path
    metrics: Metrics


@pytest.fixture(scope="module")
def interpreters() -> dict[str, str]:
    """An interpreter by the version of its TensorFlow."""
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no Python with TensorFlow 2.15; `make test-all` makes one")
    found = {version_of(python): python for python in (os.environ[VARIABLE], sys.executable)}
    assert "2.15" in found
    assert len(found) == 2
    return found


def version_of(python: str) -> str:
    program = "import tensorflow; print(tensorflow.__version__)"
    version = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout
    return ".".join(version.split(".")[:2])


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    settings = ["--steps", str(STEPS), "--checkpoint-every", str(KEPT), "--sequences-per-step", "6"]
    data = write_training_data(tmp_path_factory.mktemp("data"))
    return ["printing", *data, *settings, "--learning-rate", "0.01", "--model-dir"]


@pytest.fixture(scope="module")
def whole(
    interpreters: dict[str, str], command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Trained]:
    """The same run on each TensorFlow from its beginning."""
    runs = {version: (python, tmp_path_factory.mktemp("whole")) for version, python in interpreters.items()}
    return {version: train(python, command, folder) for version, (python, folder) in runs.items()}


def train(python: str, command: list[str], folder: Path) -> Trained:
    with Processes(SECONDS) as processes:
        process = processes.start(*command, str(folder), python=python)
        metrics = read_metrics(process)
        assert process.wait() == 0
    return Trained(folder, metrics)


def test_a_run_is_the_same_on_both(whole: dict[str, Trained]) -> None:
    one, other = (run.metrics for run in whole.values())
    for key in ("loss/mlm", "loss/nsp", "eval/mlm_loss", "eval/nsp_loss"):
        assert one[key] == pytest.approx(other[key], rel=FLOAT32_ROUNDING)
    losses = one["loss/mlm"]
    assert list(losses) == list(range(1, STEPS + 1))
    assert abs(losses[1] - losses[STEPS]) > 1000 * FLOAT32_ROUNDING


@pytest.mark.parametrize("older_first", [True, False], ids=["2.15 to newest", "newest to 2.15"])
def test_a_checkpoint_is_resumed_on_the_other(
    interpreters: dict[str, str],
    whole: dict[str, Trained],
    command: list[str],
    tmp_path: Path,
    *,
    older_first: bool,
) -> None:
    first, then = sorted(whole, key=lambda version: (version == "2.15") != older_first)
    folder = shutil.copytree(whole[first].folder, tmp_path / "model")
    forget(folder, STEPS)
    resumed = train(interpreters[then], command, folder).metrics
    assert list(resumed["loss/mlm"]) == list(range(KEPT + 1, STEPS + 1))
    for key in ("loss/mlm", "loss/nsp", "gradient_norm", "eval/mlm_loss"):
        expected = {step: value for step, value in whole[first].metrics[key].items() if step > KEPT}
        assert resumed[key] == pytest.approx(expected, rel=FLOAT32_ROUNDING)


def forget(folder: Path, step: int) -> None:
    """Remove the checkpoint of `step`, as if the run had ended before it."""
    (folder / "checkpoints" / f"{step:08d}.json").unlink()
