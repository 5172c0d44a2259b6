from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from packing.errors import InputError, TrackingError, UsageError
from packing.ports import MemoryRun, MemoryStorage, MemoryTracker, Metric
from tests.training.packs import GROUPS, MODEL, VOCABULARY, write_dataset
from training.cli import build_parser, run
from training.config import ModelConfig, SavedConfig, TrainingConfig
from training.evaluate import evaluate_checkpoint
from training.preemption import PreemptedError
from training.train import DivergedError, TrainingSummary, train

pytestmark = pytest.mark.slow

Dataset = tuple[str, str]
SMALL = replace(MODEL, num_hidden_layers=1)
DROPPING = replace(SMALL, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
SEQUENCES = sum(map(len, GROUPS))


def config(data: str, **changes: Any) -> TrainingConfig:
    settings = {"steps": 6, "sequences_per_step": 6, "learning_rate": 0.01, "log_every": 2, "seed": 7}
    return TrainingConfig(data, **{**settings, **changes})


@pytest.fixture
def tracker() -> MemoryTracker:
    return MemoryTracker()


@dataclass(frozen=True)
class Trained:
    """A finished run of 4 steps in `folder`."""

    storage: MemoryStorage
    dataset: Dataset
    tracker: MemoryTracker
    folder: Path
    summary: TrainingSummary


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    storage, tracker, folder = MemoryStorage(), MemoryTracker(), tmp_path_factory.mktemp("trained")
    dataset = write_dataset(storage, "/data")
    settings = config(dataset[0], steps=4, checkpoint_every=1, keep_checkpoints=2, learning_rate=0.1)
    summary = train(storage, tracker, SMALL, settings, folder)
    return Trained(storage, dataset, tracker, folder, summary)


def the_run(tracker: MemoryTracker) -> MemoryRun:
    (run,) = tracker.runs.values()
    return run


def series(run: MemoryRun, key: str) -> dict[int, float]:
    return {metric.step: metric.value for metric in run.metrics if metric.key == key}


def test_a_run_learns_and_is_tracked(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    settings = config(dataset[0], steps=30, learning_rate=0.03, eval_data=dataset[1], eval_sequences=10)
    summary = train(storage, tracker, SMALL, settings, tmp_path)
    run = the_run(tracker)
    assert (summary.steps, summary.manifest, summary.recipe_id) == (30, dataset[0], "recipe-of-the-test")
    assert summary.first_mlm_loss is not None
    assert summary.last_mlm_loss is not None
    assert summary.last_mlm_loss < summary.first_mlm_loss - 0.3
    assert summary.evaluation is not None
    assert summary.evaluation.sequences == 10
    assert (run.experiment, run.status, run.run_id) == ("bert-pretraining", "FINISHED", summary.run_id)
    assert run.tags == {"stowage.manifest": dataset[0], "stowage.recipe_id": "recipe-of-the-test"}
    assert {"recipe_id", "manifest", "learning_rate", "model.hidden_size"} <= set(run.params)
    losses = series(run, "loss/mlm")
    assert list(losses) == list(range(1, 31))
    assert (losses[1], losses[30]) == (summary.first_mlm_loss, summary.last_mlm_loss)
    assert list(series(run, "throughput/real_tokens_per_second")) == list(range(2, 31, 2))
    assert series(run, "sequences_seen")[30] == summary.sequences
    assert series(run, "eval/mlm_loss") == {30: summary.evaluation.mlm_loss}
    keys = {"loss/nsp", "accuracy/mlm", "accuracy/nsp", "learning_rate", "gradient_norm"}
    assert keys <= {metric.key for metric in run.metrics}


def test_evaluation_is_the_same_on_packs_and_on_raw_data(trained: Trained) -> None:
    packed, raw = (evaluate_checkpoint(trained.storage, data, trained.folder, batch_size=3) for data in trained.dataset)
    assert packed.sequences == raw.sequences == SEQUENCES
    assert packed.masked_tokens == raw.masked_tokens > 0
    assert (packed.mlm_accuracy, packed.nsp_accuracy) == (raw.mlm_accuracy, raw.nsp_accuracy)
    assert packed.mlm_loss == pytest.approx(raw.mlm_loss, rel=1e-6)
    assert packed.nsp_loss == pytest.approx(raw.nsp_loss, rel=1e-6)


def test_padded_mode_trains_on_every_sequence_once_by_default(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    settings = config(dataset[1], mode="padded", steps=None, sequences_per_step=1)
    summary = train(storage, tracker, SMALL, settings, tmp_path)
    assert (summary.steps, summary.sequences, summary.packing_factor) == (SEQUENCES, SEQUENCES, 1.0)
    assert summary.real_tokens == sum(map(sum, GROUPS))
    assert (summary.manifest, summary.recipe_id) == (None, None)


def test_stopping_counts_sequences(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    summary = train(storage, tracker, SMALL, config(dataset[0], steps=None, sequences=40), tmp_path)
    seen = series(the_run(tracker), "sequences_seen")
    assert summary.sequences >= 40 > seen[summary.steps - 1]


def test_a_resumed_run_equals_an_undisturbed_one(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    whole = train(storage, tracker, DROPPING, config(dataset[0], sequences=60, steps=None), tmp_path / "whole")

    class InterruptingTracker(MemoryTracker):
        """Its first batch of metrics sends SIGTERM to this process."""

        def start_run(
            self, experiment: str, name: str, *, params: Mapping[str, str], tags: Mapping[str, str]
        ) -> MemoryRun:
            started = InterruptingRun(f"run-{len(self.runs)}", experiment, name, dict(params), dict(tags))
            self.runs[started.run_id] = started
            return started

    class InterruptingRun(MemoryRun):
        def log_metrics(self, metrics: Iterable[Metric]) -> None:
            if not self.metrics:
                os.kill(os.getpid(), signal.SIGTERM)
            super().log_metrics(metrics)

    interrupting = InterruptingTracker()
    settings = config(dataset[0], sequences=60, steps=None)
    with pytest.raises(PreemptedError, match=r"saved .*ckpt-") as stopped:
        train(storage, interrupting, DROPPING, settings, tmp_path / "parts")
    assert stopped.value.exit_status == 42
    run = the_run(interrupting)
    assert run.status == "KILLED"
    assert 0 < max(series(run, "loss/mlm")) < whole.steps
    resumed = train(storage, interrupting, DROPPING, settings, tmp_path / "parts")
    assert the_run(interrupting).status == "FINISHED"
    assert (resumed.steps, resumed.sequences) == (whole.steps, whole.sequences)
    assert series(run, "loss/mlm") == series(the_run(tracker), "loss/mlm")
    figures = [evaluate_checkpoint(storage, dataset[1], tmp_path / name) for name in ("whole", "parts")]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (replace(SMALL, hidden_dropout_prob=0.5), {}, "model: "),
        (SMALL, {"seed": 8}, "seed: "),
        (SMALL, {"data": "/data/raw", "mode": "padded"}, "data: "),
    ],
)
def test_resuming_as_another_run_is_refused(
    trained: Trained, model: ModelConfig, changes: dict[str, Any], message: str
) -> None:
    wanted = replace(config(trained.dataset[0]), **changes)
    before = len(the_run(trained.tracker).metrics)
    with pytest.raises(UsageError, match=message):
        train(trained.storage, trained.tracker, model, wanted, trained.folder)
    assert len(the_run(trained.tracker).metrics) == before


def test_resuming_with_another_shape_of_model_is_refused(trained: Trained) -> None:
    with pytest.raises(InputError, match=r"ckpt-4: cannot be restored"):
        train(
            trained.storage,
            trained.tracker,
            replace(SMALL, vocab_size=100),
            config(trained.dataset[0]),
            trained.folder,
        )


def test_a_run_that_the_tracker_forgot_goes_on_as_a_new_one(trained: Trained, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / "copy")
    other = MemoryTracker()
    summary = train(trained.storage, other, SMALL, config(trained.dataset[0], steps=5), folder)
    assert list(series(the_run(other), "loss/mlm")) == [5]
    assert summary.steps == 5
    assert SavedConfig.load(folder).run_id == summary.run_id


def test_a_finished_run_has_nothing_left_to_do(trained: Trained, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / "copy")
    summary = train(trained.storage, MemoryTracker(), SMALL, config(trained.dataset[0], steps=4), folder)
    assert (summary.steps, summary.sequences) == (4, trained.summary.sequences)
    assert (summary.first_mlm_loss, summary.last_mlm_loss, summary.real_tokens) == (None, None, 0)
    assert summary.checkpoint.endswith("ckpt-4")


def test_old_checkpoints_go(trained: Trained) -> None:
    assert sorted(path.name for path in trained.folder.glob("ckpt-*.index")) == ["ckpt-3.index", "ckpt-4.index"]


def test_a_loss_that_is_no_number_ends_the_run(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    settings = config(dataset[0], steps=20, learning_rate=1e30, checkpoint_every=1)
    with pytest.raises(DivergedError, match=r"step \d+: mlm_loss .*last checkpoint is .*ckpt-\d+"):
        train(storage, tracker, SMALL, settings, tmp_path)
    assert the_run(tracker).status == "FAILED"


def test_wrong_data_ends_the_run(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"{dataset[0]}.*vocab_size"):
        train(storage, tracker, replace(SMALL, vocab_size=VOCABULARY // 2), config(dataset[0]), tmp_path)
    assert the_run(tracker).status == "FAILED"


def command(
    storage: MemoryStorage, tracker: MemoryTracker, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, dict[str, Any], str]:
    def open_tracker(uri: str | None) -> MemoryTracker:
        if uri == "http://nowhere":
            raise TrackingError("nowhere: connection refused")
        return tracker

    status = run(build_parser().parse_args([*arguments, "--json"]), lambda: storage, open_tracker)
    output = capsys.readouterr()
    return status, json.loads(output.out.splitlines()[-1]) if output.out else {}, output.err


@pytest.fixture
def model_file(tmp_path: Path) -> str:
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps({name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}))
    return str(path)


def test_the_commands_end_to_end(
    storage: MemoryStorage,
    dataset: Dataset,
    tracker: MemoryTracker,
    tmp_path: Path,
    model_file: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = str(tmp_path / "model")
    status, trained, _ = command(
        storage, tracker, capsys, "train", "--data", dataset[0], "--model-dir", folder, "--model", model_file,
        "--steps", "4", "--sequences-per-step", "6", "--log-every", "2", "--eval-data", dataset[1],
    )  # fmt: skip
    assert (status, trained["steps"], trained["evaluation"]["sequences"]) == (0, 4, SEQUENCES)
    assert caplog.text.count("mlm_loss") == 2
    status, evaluated, _ = command(storage, tracker, capsys, "evaluate", "--data", dataset[1], "--checkpoint", folder)
    assert (status, evaluated) == (0, trained["evaluation"])
    status, speedup, _ = command(
        storage, tracker, capsys, "speedup", "--data", dataset[0], "--raw", dataset[1], "--model", model_file,
        "--steps", "3", "--sequences-per-step", "17",
    )  # fmt: skip
    assert (status, speedup["packs_per_step"], speedup["steps"]) == (0, 8, 3)
    assert speedup["packing_factor"] == trained["packing_factor"] == SEQUENCES / len(GROUPS)
    assert speedup["speedup"] > 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--data", "/data/manifests/none.json"], 5, "no such object"),
        (["--data", "/data/none"], 2, "mode packed reads a manifest"),
        (["--data", "/data/none", "--mode", "padded"], 3, "/data/none"),
        (["--data", "MANIFEST", "--steps", "0"], 2, "steps"),
        (["--data", "MANIFEST", "--model", "enormous"], 2, "enormous"),
        (["--data", "MANIFEST", "--tracking-uri", "http://nowhere"], 5, "connection refused"),
        (["--data", "MANIFEST", "--model-dir", "s3://bucket/model"], 2, "local folder"),
    ],
)
def test_errors_end_with_one_line_and_their_status(
    storage: MemoryStorage,
    dataset: Dataset,
    tracker: MemoryTracker,
    tmp_path: Path,
    model_file: str,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    given = [dataset[0] if argument == "MANIFEST" else argument for argument in arguments]
    ended, result, errors = command(
        storage, tracker, capsys, "train", "--model-dir", str(tmp_path / "model"), "--model", model_file, *given
    )
    assert (ended, result) == (status, {})
    assert message in errors.splitlines()[-1]
