"""One checkpoint gives the same figures on packs and on the raw sequences that they hold, of real data where it is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from benchmarks.datasets import raw_data
from benchmarks.settings import QUICK, Bench
from packing.adapters.local import LocalStorage
from training.config import MODELS
from training.devices import Worker, open_strategy
from training.evaluate import Evaluator
from training.examples import open_examples
from training.model import Batch, Bert, Dropout, Outputs
from training.shards import Cache

pytestmark = pytest.mark.exhaustive

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SECONDS = 1500
# With the published weights' 0.02 a wrong mask hardly moves the loss.
MODEL = replace(MODELS["tiny"], initializer_range=0.1)
ROUNDING = 1e-5


class Unblocked(Bert):
    """Lets all sequences of a pack see each other."""

    def __call__(self, batch: Batch, dropout: Dropout | None = None) -> Outputs:
        return super().__call__({**batch, "input_mask": tf.cast(batch["input_mask"] > 0, tf.int32)}, dropout)


class Unplaced(Bert):
    """Numbers the slots of a pack, not of its sequences."""

    def __call__(self, batch: Batch, dropout: Dropout | None = None) -> Outputs:
        slots = tf.range(batch["positions"].shape[1]) * tf.ones_like(batch["positions"])
        return super().__call__({**batch, "positions": slots}, dropout)


def command(*arguments: str) -> dict[str, Any]:
    """What a command of this project prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--json"], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A manifest, and the folder of the raw shards that it packs."""
    folder = tmp_path_factory.mktemp("sample")
    raw = DATA / "wikipedia"
    if not raw.is_dir():
        raw = raw_data(Bench(QUICK, DATA, folder), 2)
    return command("packing", "run", str(raw), str(folder / "packed"))["manifest"], str(raw)


def test_evaluation_is_the_same_on_packs_and_on_raw_data(data: tuple[str, str], tmp_path: Path) -> None:
    model, folder, cache = tmp_path / "bert_config.json", str(tmp_path / "model"), str(tmp_path / "cache")
    model.write_text(json.dumps(asdict(MODEL)))
    # A step that leaves the random weights as they are.
    settings = ["--model", str(model), "--steps", "1", "--sequences-per-step", "1", "--learning-rate", "0"]
    trained = command("training", "train", "--data", data[0], "--model-dir", folder, "--cache-dir", cache, *settings)
    assert trained["steps"] == 1
    packed, raw = (
        command("training", "evaluate", "--data", uri, "--checkpoint", folder, "--cache-dir", cache) for uri in data
    )
    counts = ("sequences", "masked_tokens")
    assert [packed[name] for name in counts] == [raw[name] for name in counts]
    assert min(packed[name] for name in counts) > 100
    for name in ("mlm_loss", "nsp_loss"):
        assert packed[name] == pytest.approx(raw[name], rel=ROUNDING)


def test_a_model_that_mixes_sequences_up_would_show(data: tuple[str, str], tmp_path: Path) -> None:
    strategy = open_strategy("cpu")
    examples = open_examples(LocalStorage(), data[0], Cache(tmp_path))
    right, *wrong = (
        Evaluator(strategy, Worker(), model(MODEL), examples, limit=300)() for model in (Bert, Unblocked, Unplaced)
    )
    assert right.sequences > 300
    for evaluation in wrong:
        moved = abs(evaluation.mlm_loss / right.mlm_loss - 1), abs(evaluation.nsp_loss / right.nsp_loss - 1)
        assert max(moved) > 10 * ROUNDING
