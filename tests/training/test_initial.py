"""Weights arrive whole and in their places from every kind of checkpoint, or nothing changes and the error says why."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from packing.adapters.local import LocalStorage
from packing.errors import InputError, UsageError
from packing.in_memory import MemoryStorage
from tests.training.checkpoints import (
    Variable,
    encoder_v2,
    garden_pretrainer,
    older_pretrainer,
    write_objects,
    write_tf1,
)
from training.config import ModelConfig
from training.files import store_files
from training.initial import InitialWeights, load_initial_weights
from training.model import Bert, weight_shapes
from training.optimizer import Lamb

CONFIG = ModelConfig(
    vocab_size=40,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=16,
)
SCRATCH = Path(tempfile.gettempdir())
LAYERS, HEADS = CONFIG.num_hidden_layers, CONFIG.num_attention_heads

Arrays = dict[str, np.ndarray[Any, Any]]


def random_weights() -> Arrays:
    rng = np.random.default_rng(7)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in weight_shapes(CONFIG).items()}


WEIGHTS = random_weights()


def tf1_checkpoint(prefix: Path, weights: Arrays) -> Path:
    slots = {f"{name}/{slot}": value + 1 for name, value in weights.items() for slot in ("adam_m", "adam_v")}
    return write_tf1(prefix, {**weights, **slots, "global_step": np.int64(28252)})


def garden_checkpoint(prefix: Path, weights: Arrays) -> Path:
    variables = garden_pretrainer(weights, LAYERS, HEADS)
    slots = [Variable(f"optimizer/{n}", f"Adam/m/{v.name}", v.value + 1) for n, v in enumerate(variables)]
    return write_objects(prefix, [*slots, *variables, Variable("global_step", "global_step", np.int64(3))])


def older_checkpoint(prefix: Path, weights: Arrays) -> Path:
    return write_objects(prefix, older_pretrainer(weights, LAYERS, HEADS))


def own_checkpoint(prefix: Path, weights: Arrays) -> Path:
    model = Bert(CONFIG)
    for name, variable in model.weights.items():
        variable.assign(weights[name])
    return Path(tf.train.Checkpoint(model=model, optimizer=Lamb(model.weights.values())).write(str(prefix)))


SOURCES: dict[str, tuple[Callable[[Path, Arrays], Path], str]] = {
    "TF1": (tf1_checkpoint, "tf1"),
    "Model Garden": (garden_checkpoint, "tf2"),
    "MLPerf's TF2": (older_checkpoint, "tf2"),
    "own": (own_checkpoint, "stowage"),
}


def loaded(prefix: Path) -> tuple[Arrays, InitialWeights]:
    model = Bert(CONFIG, seed=1)
    result = load_initial_weights(LocalStorage(), model, str(prefix), SCRATCH)
    return {name: variable.numpy() for name, variable in model.weights.items()}, result


def refuse(prefix: Path, kind: type[Exception], *words: str, config: ModelConfig = CONFIG) -> None:
    """Check that loading raises an error with these words and leaves the model as it was."""
    model = Bert(config, seed=1)
    before = {name: variable.numpy() for name, variable in model.weights.items()}
    with pytest.raises(kind) as caught:
        load_initial_weights(LocalStorage(), model, str(prefix), SCRATCH)
    assert [word for word in (str(prefix), *words) if word not in str(caught.value)] == []
    assert all(np.array_equal(before[name], variable.numpy()) for name, variable in model.weights.items())


@pytest.mark.parametrize("source", SOURCES)
def test_every_weight_arrives(source: str, tmp_path: Path) -> None:
    write, naming = SOURCES[source]
    prefix = write(tmp_path / "model.ckpt-28252", WEIGHTS)
    weights, result = loaded(prefix)
    assert (result.source, result.naming, result.missing) == (str(prefix), naming, ())
    assert list(result.loaded) == list(WEIGHTS)
    assert [name for name in WEIGHTS if not np.array_equal(weights[name], WEIGHTS[name])] == []


def test_other_variables_are_named(tmp_path: Path) -> None:
    _, result = loaded(tf1_checkpoint(tmp_path / "model.ckpt", WEIGHTS))
    slots = {f"{name}/{slot}" for name in WEIGHTS for slot in ("adam_m", "adam_v")}
    assert set(result.ignored) == {*slots, "global_step"}


def test_heads_that_an_encoder_lacks_start_from_the_seed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prefix = write_objects(tmp_path / "encoder", encoder_v2(WEIGHTS, LAYERS, HEADS))
    with caplog.at_level(logging.WARNING):
        weights, result = loaded(prefix)
    heads = [name for name in WEIGHTS if name.startswith("cls/")]
    assert list(result.missing) == heads
    assert all(name in caplog.text for name in heads)
    drawn = {name: variable.numpy() for name, variable in Bert(CONFIG, seed=1).weights.items()}
    for name, value in weights.items():
        assert np.array_equal(value, drawn[name] if name in heads else WEIGHTS[name])


def longer(name: str) -> Arrays:
    return {**WEIGHTS, name: np.concatenate([WEIGHTS[name]] * 2)}


@settings(max_examples=15)
@given(name=st.sampled_from(sorted(WEIGHTS)))
def test_no_weight_may_have_another_shape(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prefix = write_tf1(Path(folder) / "c", longer(name))
        refuse(prefix, UsageError, name, "expected shape", str(list(WEIGHTS[name].shape)), "found")


@pytest.mark.parametrize(
    "name",
    [
        "bert/encoder/layer_1/attention/self/key/kernel",
        "bert/encoder/layer_0/attention/self/value/bias",
        "bert/encoder/layer_1/attention/output/dense/kernel",
        "cls/seq_relationship/output_weights",
    ],
)
def test_no_weight_of_the_garden_may_have_another_shape(name: str, tmp_path: Path) -> None:
    refuse(older_checkpoint(tmp_path / "c", longer(name)), UsageError, name, "expected shape", "found")


@settings(max_examples=15)
@given(name=st.sampled_from(sorted(WEIGHTS)))
def test_no_weight_may_be_missing(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prefix = write_tf1(Path(folder) / "c", {known: value for known, value in WEIGHTS.items() if known != name})
        refuse(prefix, UsageError, name, str(list(WEIGHTS[name].shape)), "nearest are")


def test_the_vocabulary_to_give_is_told(tmp_path: Path) -> None:
    words = np.zeros((48, CONFIG.hidden_size), np.float32)
    prefix = tf1_checkpoint(tmp_path / "c", {**WEIGHTS, "bert/embeddings/word_embeddings": words})
    refuse(prefix, UsageError, "[40, 12]", "[48, 12]", "--vocab-size 48")


@pytest.mark.parametrize("write", [tf1_checkpoint, garden_checkpoint, older_checkpoint])
def test_no_layer_is_left_out(write: Callable[[Path, Arrays], Path], tmp_path: Path) -> None:
    refuse(write(tmp_path / "c", WEIGHTS), UsageError, "1 layers", config=replace(CONFIG, num_hidden_layers=1))


def test_heads_of_attention_show_in_the_shapes_of_tf2(tmp_path: Path) -> None:
    prefix = garden_checkpoint(tmp_path / "c", WEIGHTS)
    refuse(prefix, UsageError, "[12, 2, 6]", "[12, 3, 4]", config=replace(CONFIG, num_attention_heads=2))


@pytest.mark.parametrize("place", [".", ".."], ids=["beside the checkpoint", "beside its folder"])
@pytest.mark.parametrize(
    ("field", "value"), [("num_attention_heads", 2), ("intermediate_size", 24), ("hidden_act", "relu")]
)
def test_the_published_configuration_must_agree(place: str, field: str, value: Any, tmp_path: Path) -> None:
    folder = tmp_path / "bert" / "tf1_ckpt"
    folder.mkdir(parents=True)
    prefix = tf1_checkpoint(folder / "model.ckpt", WEIGHTS)
    published = {**asdict(CONFIG), "hidden_act": "gelu", "pooler_fc_size": 768}
    (folder / place / "bert_config.json").write_text(json.dumps(published))
    loaded(prefix)
    (folder / place / "bert_config.json").write_text(json.dumps({**published, field: value}))
    refuse(prefix, UsageError, field, str(value), "bert_config.json")


def test_two_variables_of_one_name_are_refused(tmp_path: Path) -> None:
    variables = garden_pretrainer(WEIGHTS, LAYERS, HEADS)
    twice = [v._replace(path=f"other/{v.path}") for v in variables if v.name == "embeddings/layer_norm/gamma"]
    prefix = write_objects(tmp_path / "c", [*variables, *twice])
    refuse(prefix, UsageError, "bert/embeddings/LayerNorm/gamma", "other/", "encoder/")


def test_numbers_must_be_finite(tmp_path: Path) -> None:
    name = "bert/pooler/dense/bias"
    prefix = tf1_checkpoint(tmp_path / "c", {**WEIGHTS, name: np.full_like(WEIGHTS[name], np.nan)})
    refuse(prefix, InputError, name, "finite")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    prefix = tf1_checkpoint(tmp_path / "c", WEIGHTS)
    data = tmp_path / "c.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1000])
    refuse(prefix, InputError, "cannot be read")
    (tmp_path / "c.index").write_bytes(b"no table")
    refuse(prefix, InputError, "cannot be read")


def test_a_folder_means_its_only_or_its_latest_checkpoint(tmp_path: Path) -> None:
    refuse(tmp_path, UsageError, "found none")
    first = tf1_checkpoint(tmp_path / "model.ckpt-1", WEIGHTS)
    assert loaded(tmp_path)[1].source == str(first)
    second = tf1_checkpoint(tmp_path / "model.ckpt-2", WEIGHTS)
    refuse(tmp_path, UsageError, "model.ckpt-1", "model.ckpt-2")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-2"\n')
    assert loaded(tmp_path)[1].source == str(second)
    refuse(tmp_path / "model.ckpt", UsageError, "model.ckpt.index")


@pytest.mark.parametrize("named", ["", "/model.ckpt-2"], ids=["folder", "prefix"])
def test_a_checkpoint_in_a_store_is_read_as_one_on_disk(named: str, tmp_path: Path) -> None:
    storage, scratch = MemoryStorage(), tmp_path / "scratch"
    scratch.mkdir()
    tf1_checkpoint(tmp_path / "disk" / "model.ckpt-2", WEIGHTS)
    (tmp_path / "disk" / "bert_config.json").write_text(json.dumps(asdict(CONFIG)))
    store_files(storage, tmp_path / "disk", "s3://models/bert")
    model = Bert(CONFIG, seed=1)
    result = load_initial_weights(storage, model, f"s3://models/bert{named}", scratch)
    assert (result.naming, result.loaded) == ("tf1", tuple(WEIGHTS))
    assert [name for name, weight in model.weights.items() if not np.array_equal(weight.numpy(), WEIGHTS[name])] == []
    assert not list(scratch.iterdir())
    with pytest.raises(UsageError, match="num_attention_heads: expected 2"):
        load_initial_weights(storage, Bert(replace(CONFIG, num_attention_heads=2)), "s3://models/bert", scratch)
