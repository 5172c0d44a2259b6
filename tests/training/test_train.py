from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from packing.errors import InputError, StorageError, UsageError
from packing.in_memory import MemoryRun, MemoryStorage, MemoryTracker
from packing.ports import Buffer, ObjectInfo
from tests.training.packs import GROUPS, MODEL, VOCABULARY, write_dataset
from training.config import ModelConfig, TrainingConfig
from training.errors import DivergedError
from training.evaluate import evaluate_checkpoint
from training.preemption import PreemptedError
from training.saved import SavedConfig
from training.shards import Cache
from training.train import TrainingSummary, train

pytestmark = pytest.mark.slow

Dataset = tuple[str, str]
SMALL = replace(MODEL, num_hidden_layers=1)
DROPPING = replace(SMALL, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
SEQUENCES = sum(map(len, GROUPS))
MODEL_DIR = "/models/bert"


def config(data: str, **changes: Any) -> TrainingConfig:
    settings = {"steps": 6, "sequences_per_step": 6, "learning_rate": 0.01, "log_every": 2, "seed": 7}
    return TrainingConfig((data,), **{**settings, **changes})


@pytest.fixture
def tracker() -> MemoryTracker:
    return MemoryTracker()


@dataclass(frozen=True)
class Trained:
    """A finished run of 4 steps, in the model folder MODEL_DIR."""

    storage: MemoryStorage
    dataset: Dataset
    tracker: MemoryTracker
    summary: TrainingSummary
    cache: Cache

    def copy(self) -> MemoryStorage:
        """A store with the same content, in which the run can be gone on with."""
        storage = MemoryStorage()
        storage.objects.update(self.storage.objects)
        return storage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    storage, tracker, work = MemoryStorage(), MemoryTracker(), tmp_path_factory.mktemp("trained")
    dataset, cache = write_dataset(storage, "/data"), Cache(work / "cache")
    settings = config(dataset[0], steps=4, checkpoint_every=1, keep_checkpoints=2, learning_rate=0.1)
    summary = train(storage, tracker, SMALL, settings, MODEL_DIR, work=work, cache=cache)
    return Trained(storage, dataset, tracker, summary, cache)


def the_run(tracker: MemoryTracker) -> MemoryRun:
    (run,) = tracker.runs.values()
    return run


def series(run: MemoryRun, key: str) -> dict[int, float]:
    return {metric.step: metric.value for metric in run.metrics if metric.key == key}


def test_a_run_learns_and_is_tracked(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    settings = config(dataset[0], steps=30, learning_rate=0.03, eval_data=dataset[1], eval_sequences=10)
    summary = train(storage, tracker, SMALL, settings, MODEL_DIR, work=tmp_path)
    run = the_run(tracker)
    assert (summary.steps, summary.manifest, summary.recipe_id) == (30, dataset[0], "recipe-of-the-test")
    assert summary.first_mlm_loss is not None
    assert summary.last_mlm_loss is not None
    assert summary.last_mlm_loss < summary.first_mlm_loss - 0.3
    assert summary.evaluation is not None
    assert summary.evaluation.sequences == 10
    assert (run.experiment, run.status, run.run_id) == ("bert-pretraining", "FINISHED", summary.run_id)
    assert run.tags == {
        "stowage.manifest": dataset[0],
        "stowage.recipe_id": "recipe-of-the-test",
        "mlflow.note.content": f"Trained on `{dataset[0]}`.",
    }
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
    packed, raw = (
        evaluate_checkpoint(trained.storage, data, MODEL_DIR, cache=trained.cache, batch_size=3)
        for data in trained.dataset
    )
    assert packed.sequences == raw.sequences == SEQUENCES
    assert packed.masked_tokens == raw.masked_tokens > 0
    assert (packed.mlm_accuracy, packed.nsp_accuracy) == (raw.mlm_accuracy, raw.nsp_accuracy)
    assert packed.mlm_loss == pytest.approx(raw.mlm_loss, rel=1e-6)
    assert packed.nsp_loss == pytest.approx(raw.nsp_loss, rel=1e-6)


def test_stopping_counts_sequences(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    summary = train(storage, tracker, SMALL, config(dataset[0], steps=None, sequences=40), MODEL_DIR, work=tmp_path)
    seen = series(the_run(tracker), "sequences_seen")
    assert summary.sequences >= 40 > seen[summary.steps - 1]


def test_a_resumed_run_equals_an_undisturbed_one(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    settings = config(dataset[0], sequences=60, steps=None)
    whole = train(storage, tracker, DROPPING, settings, "/models/whole", work=tmp_path)

    class InterruptingStorage(MemoryStorage):
        """Sends SIGTERM to this process when the checkpoint of step 2 is stored."""

        def write(self, uri: str, data: Buffer) -> ObjectInfo:
            if uri == "/models/parts/checkpoints/00000002.json":
                os.kill(os.getpid(), signal.SIGTERM)
            return super().write(uri, data)

    interrupting, parts = InterruptingStorage(), MemoryTracker()
    interrupting.objects.update(storage.objects)
    settings = replace(settings, checkpoint_every=2)
    with pytest.raises(PreemptedError, match=r"saved /models/parts/checkpoints/00000003\.json") as stopped:
        train(interrupting, parts, DROPPING, settings, "/models/parts", work=tmp_path / "parts")
    assert stopped.value.exit_status == 42
    run = the_run(parts)
    assert run.status == "KILLED"
    assert max(series(run, "loss/mlm")) == 3 < whole.steps
    resumed = train(interrupting, parts, DROPPING, settings, "/models/parts", work=tmp_path / "parts")
    assert the_run(parts).status == "FINISHED"
    assert (resumed.steps, resumed.sequences) == (whole.steps, whole.sequences)
    assert series(run, "loss/mlm") == series(the_run(tracker), "loss/mlm")
    cache = Cache(tmp_path / "cache")
    figures = [evaluate_checkpoint(interrupting, dataset[1], f"/models/{x}", cache=cache) for x in ("whole", "parts")]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (replace(SMALL, hidden_dropout_prob=0.5), {}, "model: "),
        (SMALL, {"seed": 8}, "seed: "),
        (SMALL, {"data": ("/data/raw",), "mode": "padded"}, "data: "),
        (SMALL, {"sequences_per_step": 12}, "examples a step: "),
        (SMALL, {"compute_dtype": "bfloat16"}, "compute_dtype: "),
        (replace(SMALL, vocab_size=100), {}, "model: "),
    ],
)
def test_resuming_as_another_run_is_refused(
    trained: Trained, model: ModelConfig, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    wanted = replace(config(trained.dataset[0]), **changes)
    before = len(the_run(trained.tracker).metrics)
    with pytest.raises(UsageError, match=message):
        train(trained.storage, trained.tracker, model, wanted, MODEL_DIR, work=tmp_path, cache=trained.cache)
    assert len(the_run(trained.tracker).metrics) == before


def test_a_run_that_the_tracker_forgot_goes_on_as_a_new_one(trained: Trained, tmp_path: Path) -> None:
    storage, other = trained.copy(), MemoryTracker()
    summary = train(storage, other, SMALL, config(trained.dataset[0], steps=5), MODEL_DIR, work=tmp_path)
    assert list(series(the_run(other), "loss/mlm")) == [5]
    assert summary.steps == 5
    assert SavedConfig.load(storage, MODEL_DIR).run_id == summary.run_id


def test_a_run_that_ended_before_its_first_checkpoint_is_the_same_run(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    class FullStorage(MemoryStorage):
        """Takes no checkpoint."""

        def write(self, uri: str, data: Buffer) -> ObjectInfo:
            if "/checkpoints/" in uri:
                raise StorageError(f"{uri}: no space left")
            return super().write(uri, data)

    full = FullStorage()
    full.objects.update(storage.objects)
    for seed, runs in ((7, 1), (7, 1), (8, 2)):
        with pytest.raises(StorageError):
            train(full, tracker, SMALL, config(dataset[0], steps=1, seed=seed), MODEL_DIR, work=tmp_path)
        assert len(tracker.runs) == runs


def test_a_finished_run_has_nothing_left_to_do(trained: Trained, tmp_path: Path) -> None:
    settings = config(trained.dataset[0], steps=4)
    summary = train(trained.copy(), MemoryTracker(), SMALL, settings, MODEL_DIR, work=tmp_path)
    assert (summary.steps, summary.sequences) == (4, trained.summary.sequences)
    assert (summary.first_mlm_loss, summary.last_mlm_loss, summary.real_tokens) == (None, None, 0)
    assert summary.checkpoint.endswith("00000004.json")


def test_old_checkpoints_go(trained: Trained) -> None:
    documents = [
        uri
        for uri in trained.storage.objects
        if uri.startswith(f"{MODEL_DIR}/checkpoints/0000") and uri.endswith(".json")
    ]
    assert sorted(uri.rsplit("/", 1)[1] for uri in documents) == ["00000003.json", "00000004.json"]


@pytest.mark.parametrize("mode", ["padded", "bucketed"])
def test_raw_modes_train_on_every_sequence_once_by_default(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path, mode: str
) -> None:
    settings = config(dataset[1], mode=mode, steps=None, sequences_per_step=1)
    summary = train(storage, tracker, SMALL, settings, MODEL_DIR, work=tmp_path)
    assert (summary.steps, summary.sequences, summary.packing_factor) == (SEQUENCES, SEQUENCES, 1.0)
    assert summary.real_tokens == sum(map(sum, GROUPS))
    assert (summary.manifest, summary.recipe_id) == (None, None)


def test_epochs_take_several_recipes_in_turn(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    """The second manifest's shards hold the same packs under other names, and go missing."""
    first = json.loads(storage.objects[dataset[0]])
    shards = [{**shard, "uri": shard["uri"].replace(".tfrecord", "-2.tfrecord")} for shard in first["shards"]]
    second = json.dumps({**first, "shards": shards, "recipe_id": "other-recipe"}).encode()
    storage.write("/data/manifests/other.json", second)
    settings = replace(
        config(dataset[0], steps=None, sequences=SEQUENCES), data=(dataset[0], "/data/manifests/other.json")
    )
    summary = train(storage, tracker, SMALL, settings, MODEL_DIR, work=tmp_path)
    assert SavedConfig.load(storage, MODEL_DIR).datasets == ("recipe-of-the-test", "other-recipe")
    assert summary.sequences >= SEQUENCES
    run = the_run(tracker)
    assert run.params["recipe_id"] == run.tags["stowage.recipe_id"] == "recipe-of-the-test other-recipe"
    assert run.params["manifest"] == f"{dataset[0]} /data/manifests/other.json"


def test_a_reached_target_ends_the_run_for_good(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    """A checkpoint is due after the step that reached it, too, and holds what the evaluation found."""
    evaluation = {"eval_data": dataset[1], "eval_every": 12, "eval_sequences": 20, "target_mlm_accuracy": 0.05}
    settings = config(dataset[0], steps=400, learning_rate=0.03, checkpoint_every=1, **evaluation)
    summary = train(storage, tracker, SMALL, settings, MODEL_DIR, work=tmp_path)
    accuracies = series(the_run(tracker), "eval/mlm_accuracy")
    assert summary.target_reached
    assert summary.steps == max(accuracies) < 400
    assert [accuracy >= 0.05 for accuracy in accuracies.values()] == [False] * (len(accuracies) - 1) + [True]
    crossed = [seen // 12 for seen in series(the_run(tracker), "sequences_seen").values()]
    assert len(accuracies) == len(set(crossed) - {0})
    again = train(storage, tracker, SMALL, settings, MODEL_DIR, work=tmp_path)
    assert (again.steps, again.target_reached) == (summary.steps, True)
    # As after a kill: config.json has what is wanted now already, the checkpoint what was before.
    saved = SavedConfig.load(storage, MODEL_DIR)
    other = replace(settings, steps=summary.steps + 2, eval_sequences=19, eval_every=None)
    replace(saved, training=other).save(storage, MODEL_DIR)
    assert train(storage, tracker, SMALL, other, MODEL_DIR, work=tmp_path).steps == summary.steps + 2
    higher = replace(other, steps=summary.steps + 3, target_mlm_accuracy=1.0)
    on = train(storage, tracker, SMALL, higher, MODEL_DIR, work=tmp_path)
    assert (on.steps, on.target_reached) == (summary.steps + 3, False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_learn_as_well(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path, dtype: str
) -> None:
    settings = config(dataset[0], steps=30, learning_rate=0.03, compute_dtype=dtype, micro_batches=2)
    summary = train(storage, tracker, SMALL, settings, MODEL_DIR, work=tmp_path)
    assert summary.last_mlm_loss is not None
    assert summary.first_mlm_loss is not None
    assert summary.last_mlm_loss < summary.first_mlm_loss - 0.3
    restored = evaluate_checkpoint(storage, dataset[1], MODEL_DIR, cache=Cache(tmp_path / "cache"))
    assert restored.mlm_loss < summary.first_mlm_loss


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_loss_that_is_no_number_ends_the_run(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path, dtype: str
) -> None:
    settings = config(dataset[0], steps=1, compute_dtype=dtype)
    good = train(storage, tracker, SMALL, settings, MODEL_DIR, work=tmp_path).checkpoint
    worse = replace(settings, steps=20, learning_rate=1e30)
    with pytest.raises(DivergedError, match=rf"step \d+: mlm_loss .*it read /data/.*last checkpoint is {good}"):
        train(storage, tracker, SMALL, worse, MODEL_DIR, work=tmp_path)
    assert the_run(tracker).status == "FAILED"


@pytest.mark.parametrize("rate", [1e39, 1e7])
def test_weights_that_are_no_numbers_are_not_saved(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path, rate: float
) -> None:
    settings = config(dataset[0], steps=1, learning_rate=rate)
    with pytest.raises(DivergedError, match=r"step 1: .*expected weights with a mean square.*there is no checkpoint"):
        train(storage, tracker, SMALL, settings, MODEL_DIR, work=tmp_path)
    assert not storage.list(f"{MODEL_DIR}/checkpoints")


def test_wrong_data_ends_the_run(
    storage: MemoryStorage, dataset: Dataset, tracker: MemoryTracker, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"{dataset[0]}.*vocab_size"):
        train(
            storage, tracker, replace(SMALL, vocab_size=VOCABULARY // 2), config(dataset[0]), MODEL_DIR, work=tmp_path
        )
    assert the_run(tracker).status == "FAILED"
