from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packing.adapters.local import LocalStorage
from packing.errors import TrackingError
from packing.in_memory import MemoryRun, MemoryTracker
from tests.training.packs import GROUPS, MODEL, write_dataset
from training.cli import build_parser, run

pytestmark = pytest.mark.slow

SMALL = replace(MODEL, num_hidden_layers=1)
SEQUENCES = sum(map(len, GROUPS))


@pytest.fixture
def storage() -> LocalStorage:
    """A real one: TensorFlow reads initial checkpoints from disk."""
    return LocalStorage()


@pytest.fixture
def dataset(storage: LocalStorage, tmp_path: Path) -> tuple[str, str]:
    return write_dataset(storage, str(tmp_path / "data"))


@pytest.fixture
def tracker() -> MemoryTracker:
    return MemoryTracker()


def command(
    storage: LocalStorage, tracker: MemoryTracker, capsys: pytest.CaptureFixture[str], *arguments: str
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
    storage: LocalStorage,
    dataset: tuple[str, str],
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
    assert len([record for record in caplog.records if "sequences/s" in record.getMessage()]) == 2
    status, evaluated, _ = command(storage, tracker, capsys, "evaluate", "--data", dataset[1], "--checkpoint", folder)
    assert (status, evaluated) == (0, trained["evaluation"])
    output = str(tmp_path / "exported")
    for kind, file in (("saved-model", "saved_model.pb"), ("hugging-face", "model.safetensors")):
        arguments = ("--checkpoint", folder, "--output", f"{output}-{kind}", "--format", kind)
        assert command(storage, tracker, capsys, "export", *arguments)[0] == 0
        assert (Path(f"{output}-{kind}") / file).stat().st_size > 0
    assert command(storage, tracker, capsys, "export", *arguments)[0] == 2
    started = len(tracker.runs)
    status, further, _ = command(
        storage, tracker, capsys, "train", "--data", dataset[0], "--model-dir", str(tmp_path / "further"),
        "--model", model_file, "--steps", "1", "--learning-rate", "0", "--init-checkpoint", folder,
        "--eval-data", dataset[1],
    )  # fmt: skip
    assert (status, further["evaluation"], len(tracker.runs)) == (0, trained["evaluation"], started + 1)


@pytest.mark.parametrize("against", ["padded", "bucketed"])
def test_a_comparison_trains_both_sides_on_the_same_sequences(
    storage: LocalStorage,
    dataset: tuple[str, str],
    tracker: MemoryTracker,
    model_file: str,
    capsys: pytest.CaptureFixture[str],
    against: str,
) -> None:
    status, compared, _ = command(
        storage, tracker, capsys, "compare", "--data", dataset[0], "--raw", dataset[1], "--model", model_file,
        "--steps", "8", "--sequences-per-step", "17", "--against", against, "--learning-rate", "0.01",
        "--log-every", "1",
    )  # fmt: skip
    assert (status, compared["against"]) == (0, against)
    assert compared["packing_factor"] == SEQUENCES / len(GROUPS)
    assert compared["speedup"] == compared["packed_sequences_per_second"] / compared["other_sequences_per_second"] > 0
    parent, *sides = tracker.runs.values()
    assert {metric.key: metric.value for metric in parent.metrics} == {
        key: compared[key] for key in ("speedup", "packing_factor")
    }
    assert [side.tags["mlflow.parentRunId"] for side in sides] == [parent.run_id, parent.run_id]
    assert [run.status for run in tracker.runs.values()] == ["FINISHED"] * 3
    curves = [losses_by_sequences(side) for side in sides]
    assert [len(curve) for curve in curves] == [compared["packed_steps"], compared["other_steps"]]
    assert min(max(curve) for curve in curves) >= 8 * 8 * SEQUENCES / len(GROUPS) - 1
    assert max(curves[1]) - max(curves[0]) < 17


def test_a_comparison_starts_both_sides_from_the_initial_checkpoint(
    storage: LocalStorage,
    dataset: tuple[str, str],
    tracker: MemoryTracker,
    tmp_path: Path,
    model_file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With learning rate 0 an epoch's mean loss is the evaluation's; one step holds the whole epoch."""
    folder, whole = str(tmp_path / "model"), ("--sequences-per-step", str(SEQUENCES), "--model", model_file)
    status, trained, _ = command(
        storage, tracker, capsys, "train", "--data", dataset[0], "--model-dir", folder, "--steps", "10",
        "--learning-rate", "0.05", "--eval-data", dataset[1], *whole,
    )  # fmt: skip
    assert (status, trained["evaluation"]["mlm_loss"] < trained["first_mlm_loss"] - 0.3) == (0, True)
    status, compared, _ = command(
        storage, tracker, capsys, "compare", "--data", dataset[0], "--raw", dataset[1], "--steps", "2",
        "--learning-rate", "0", "--init-checkpoint", folder, *whole,
    )  # fmt: skip
    expected = pytest.approx(trained["evaluation"]["mlm_loss"], rel=1e-5)
    assert (status, compared["packed_mlm_loss"], compared["other_mlm_loss"]) == (0, expected, expected)


@pytest.mark.parametrize("option", ["--checkpoint-every", "--keep-checkpoints", "--peak-tflops"])
def test_a_comparison_has_no_options_that_it_would_ignore(option: str) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["compare", "--data", "m.json", "--raw", "raw", option, "3"])


def losses_by_sequences(run: MemoryRun) -> dict[int, float]:
    """The loss at each number of sequences seen."""
    return {metric.step: metric.value for metric in run.metrics if metric.key == "loss/mlm"}


def test_a_comparison_of_other_data_is_refused(
    storage: LocalStorage,
    dataset: tuple[str, str],
    tracker: MemoryTracker,
    model_file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = storage.list(dataset[1])[0]
    storage.write(f"{dataset[1]}/more.tfrecord", storage.read(first.uri))
    arguments = ("--data", dataset[0], "--raw", dataset[1], "--model", model_file, "--steps", "2")
    status, _, errors = command(storage, tracker, capsys, "compare", *arguments)
    assert status == 3
    assert f"expected the {SEQUENCES} sequences" in errors
    assert not tracker.runs


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--data", "/data/manifests/none.json"], 5, "/data/manifests/none.json"),
        (["--data", "/data/none"], 2, "mode packed reads a manifest"),
        (["--data", "/data/none", "--mode", "padded"], 3, "/data/none"),
        (["--data", "MANIFEST", "--steps", "0"], 2, "steps"),
        (["--data", "MANIFEST", "--model", "enormous"], 2, "enormous"),
        (["--data", "MANIFEST", "--tracking-uri", "http://nowhere"], 5, "connection refused"),
        (["--data", "MANIFEST", "--strategy", "multi-worker"], 2, "TF_CONFIG"),
        (["--data", "MANIFEST", "--strategy", "hpu"], 2, "Gaudi"),
        (["--data", "MANIFEST", "--init-checkpoint", "/data/none"], 2, "/data/none"),
        (["--data", "MANIFEST", "--eval-every", "9"], 2, "eval_every"),
        (["--data", "MANIFEST", "--cache-bytes", "10"], 2, "cache"),
        (["--data", "MANIFEST", "--vocab-size", "1000000000000"], 2, "vocab_size"),
        (["--data", "MANIFEST", "--sequences-per-step", "1000000000000"], 2, "sequences_per_step"),
    ],
)
def test_errors_end_with_one_line_and_their_status(
    storage: LocalStorage,
    dataset: tuple[str, str],
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
    assert (ended, result["exit_status"]) == (status, status)
    assert errors.splitlines()[-1] == f"error: {result['error']}"
    assert message in result["error"]
