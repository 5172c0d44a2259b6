"""A run may start from the latest checkpoint of another one, checked, wherever its model folder lies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from packing.adapters.local import LocalStorage
from packing.errors import InputError, StowageError, UsageError, VerificationError
from packing.in_memory import MemoryStorage
from packing.ports import Storage
from tests.training.packs import MODEL
from training.checkpoint import Checkpoints
from training.config import TrainingConfig
from training.devices import open_strategy
from training.initial import load_initial_weights
from training.model import Bert
from training.saved import SavedConfig
from training.step import TrainingState, new_state

pytestmark = pytest.mark.slow

STEPS = (9, 12)
Folder = tuple[Storage, str]


@pytest.fixture
def state() -> TrainingState:
    return new_state(open_strategy("cpu"), MODEL, TrainingConfig(("/data/recipe.json",), seed=5))


@pytest.fixture(params=["local", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, state: TrainingState) -> Folder:
    """The model folder of a run that saved twice, beside other files; the weights of `state` are those of the last."""
    storage, uri = (
        (LocalStorage(), str(tmp_path / "run")) if request.param == "local" else (MemoryStorage(), "s3://m/run")
    )
    SavedConfig(MODEL, TrainingConfig(("/data/recipe.json",)), ("recipe",), 1, run_id="").save(storage, uri)
    checkpoints = Checkpoints(storage, uri, state, keep=2, scratch=tmp_path / "scratch")
    for step in STEPS:
        state.progress.steps.assign(step)
        for weight in state.model.weights.values():
            weight.assign_add(tf.ones_like(weight))
        checkpoints.save()
    storage.write(f"{uri}/checkpoints/notes.json", b"{}")
    storage.write(f"{uri}/checkpoint", b'model_checkpoint_path: "gone"')
    return storage, uri


def of_latest(uri: str, name: str) -> str:
    return f"{uri}/checkpoints/{STEPS[-1]:08d}{name}"


def refuse(folder: Folder, scratch: Path, error: type[StowageError], message: str) -> None:
    """Check that starting from the folder is refused, and leaves the model as it was."""
    model, drawn = Bert(MODEL, seed=1), Bert(MODEL, seed=1)
    with pytest.raises(error, match=message):
        load_initial_weights(folder[0], model, folder[1], scratch)
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(weight.numpy(), drawn.weights[name].numpy())


def test_weights_are_those_of_the_latest_checkpoint(folder: Folder, state: TrainingState, tmp_path: Path) -> None:
    storage, uri = folder
    if isinstance(storage, MemoryStorage):
        storage.requests.clear()
    model = Bert(MODEL, seed=1)
    result = load_initial_weights(storage, model, uri, tmp_path)
    assert (result.source, result.naming, result.loaded, result.missing) == (uri, "stowage", tuple(model.weights), ())
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(weight.numpy(), state.model.weights[name].numpy(), err_msg=name)
    if isinstance(storage, MemoryStorage):
        names = [f"/state.{suffix}" for suffix in ("index", "data-00000-of-00001")]
        wanted = {f"{uri}/config.json", of_latest(uri, ".json"), *(of_latest(uri, name) for name in names)}
        assert {uri for kind, uri in storage.requests if kind == "read"} == wanted


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: content[:200] + b"!" + content[201:], lambda _: b""]
)
def test_a_damaged_checkpoint_is_refused(folder: Folder, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    storage, uri = folder
    data = of_latest(uri, "/state.data-00000-of-00001")
    storage.write(data, damage(storage.read(data)))
    refuse(folder, tmp_path, VerificationError, f"{data}: expected .* the checkpoint is damaged, delete ")


def test_another_model_is_refused(folder: Folder, tmp_path: Path) -> None:
    storage, uri = folder
    document = json.loads(storage.read(f"{uri}/config.json"))
    document["model"]["num_attention_heads"] = 4
    storage.write(f"{uri}/config.json", json.dumps(document).encode())
    message = f"{uri}: num_attention_heads: expected 2 .*, found 4 in {uri}/config.json; give --model "
    refuse(folder, tmp_path, UsageError, message)
    storage.delete(f"{uri}/config.json")
    larger = Bert(replace(MODEL, vocab_size=MODEL.vocab_size + 1))
    with pytest.raises(InputError, match="cannot be restored into this model"):
        load_initial_weights(storage, larger, uri, tmp_path)


def test_numbers_must_be_finite(folder: Folder, state: TrainingState, tmp_path: Path) -> None:
    storage, uri = folder
    name = "bert/pooler/dense/bias"
    state.model.weights[name].assign(state.model.weights[name] * np.nan)
    state.progress.steps.assign(13)
    Checkpoints(storage, uri, state, keep=2, scratch=tmp_path / "scratch").save()
    refuse(folder, tmp_path, InputError, f"{uri}: {name}: expected finite numbers")


def test_a_folder_that_holds_no_checkpoint_yet_is_refused(tmp_path: Path) -> None:
    storage = MemoryStorage()
    storage.write("s3://m/run/checkpoints/notes.json", b"{}")
    refuse((storage, "s3://m/run"), tmp_path, UsageError, "s3://m/run: expected a checkpoint, found none")
