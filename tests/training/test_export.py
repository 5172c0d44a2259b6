"""What is exported computes what the model does: by TensorFlow alone, and by an independent BERT in NumPy."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from safetensors import safe_open
from safetensors.numpy import load_file

from packing.errors import StorageError, UsageError
from packing.in_memory import MemoryStorage
from tests.training.packs import MODEL, SLOTS, Example, group_sequences, pack, raw_sequences, stack
from training.checkpoint import Checkpoints
from training.config import TrainingConfig
from training.export import export_checkpoint, export_hugging_face, export_saved_model
from training.layout import padded_layout
from training.model import Bert
from training.optimizer import Lamb
from training.saved import SavedConfig
from training.step import Progress, TrainingState

Array = np.ndarray[Any, Any]

INPUTS = (
    "input_ids",
    "input_mask",
    "segment_ids",
    "positions",
    "masked_lm_positions",
    "next_sentence_positions",
)

# As `BertForPreTraining.save_pretrained` of transformers 4.44 writes them.
LAYER_NAMES = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
]
NAMES = {
    "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight",
    "bert.embeddings.token_type_embeddings.weight",
    "bert.embeddings.LayerNorm.weight",
    "bert.embeddings.LayerNorm.bias",
    *(f"bert.encoder.layer.{n}.{name}.{leaf}" for n in (0, 1) for name in LAYER_NAMES for leaf in ("weight", "bias")),
    "bert.pooler.dense.weight",
    "bert.pooler.dense.bias",
    "cls.predictions.bias",
    "cls.predictions.transform.dense.weight",
    "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.LayerNorm.weight",
    "cls.predictions.transform.LayerNorm.bias",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
}


def random_model(dtype: Any = tf.float32) -> Bert:
    """Biases and norms are random too, so that none is taken for another."""
    model, rng = Bert(MODEL, dtype=dtype), np.random.default_rng(3)
    for variable in model.weights.values():
        variable.assign(rng.normal(scale=0.3, size=variable.shape))
    return model


def inputs(batch: Example) -> dict[str, tf.Tensor]:
    return {name: tf.constant(batch[name]) for name in INPUTS}


def padded_batch() -> Example:
    return padded_layout(stack(raw_sequences([SLOTS, 5, 17])))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bert, Any]:
    """A model, and its SavedModel loaded again."""
    model, folder = random_model(), tmp_path_factory.mktemp("export") / "new" / "saved"
    export_saved_model(model, folder, SLOTS)
    return model, tf.saved_model.load(str(folder))


@pytest.mark.parametrize("max_sequences", [1, 3])
def test_pretraining_signature_gives_the_same_bits(saved: tuple[Bert, Any], max_sequences: int) -> None:
    model, loaded = saved
    grouped = [group[:max_sequences] for group in group_sequences([(20, 12), (10, 9, 13), (32,)])]
    batch = inputs(stack([pack(group, max_sequences) for group in grouped]))
    specs = {name: tf.TensorSpec([None, *value.shape[1:]], value.dtype) for name, value in batch.items()}
    live = tf.function(model, input_signature=[specs])(batch)
    served = loaded.signatures["serving_default"](**batch)
    assert set(served) == {"mlm_logits", "nsp_logits"}
    assert np.ptp(live.mlm_logits) > 1
    assert np.array_equal(served["mlm_logits"], live.mlm_logits)
    assert np.array_equal(served["nsp_logits"], live.nsp_logits)


def test_encoder_signature_reads_padded_data(saved: tuple[Bert, Any]) -> None:
    model, loaded = saved
    batch = inputs(padded_batch())
    encoder = {name: batch[name] for name in ("input_ids", "input_mask", "segment_ids")}
    served = loaded.signatures["encode"](**encoder)
    sequence = model.sequence_output(batch)
    assert set(served) == {"sequence_output", "pooled_output"}
    assert served["sequence_output"].shape == (*batch["input_ids"].shape, MODEL.hidden_size)
    np.testing.assert_allclose(served["sequence_output"], sequence, atol=1e-5)
    np.testing.assert_allclose(served["pooled_output"], model.pool(sequence[:, 0]), atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-12), (tf.float32, 1e-5)], ids=["float64", "float32"])
def test_hugging_face_layout_is_the_same_bert(dtype: Any, tolerance: float, tmp_path: Path) -> None:
    model, batch = random_model(dtype), padded_batch()
    export_hugging_face(model, tmp_path / "hf")
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    assert set(weights) == NAMES
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    mlm, nsp = hugging_face_bert(config, weights, batch)
    expected = model(inputs(batch))
    assert np.ptp(mlm) > 1
    np.testing.assert_allclose(mlm, expected.mlm_logits, atol=tolerance)
    np.testing.assert_allclose(nsp, expected.nsp_logits[:, 0], atol=tolerance)


def test_hugging_face_reads_the_file_and_its_configuration(tmp_path: Path) -> None:
    export_hugging_face(Bert(MODEL), tmp_path / "hf")
    with safe_open(tmp_path / "hf" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    expected = {"model_type": "bert", "architectures": ["BertForPreTraining"], "torch_dtype": "float32"}
    assert expected.items() <= config.items()


@pytest.mark.parametrize("export", [lambda m, f: export_saved_model(m, f, SLOTS), export_hugging_face])
def test_a_folder_appears_whole_or_not_at_all(export: Callable[[Bert, Path], None], tmp_path: Path) -> None:
    model, folder = Bert(MODEL), tmp_path / "model"
    export(model, folder)
    umask_of_a_folder = stat.S_IMODE((tmp_path / "model").stat().st_mode)
    (tmp_path / "other").mkdir()
    assert umask_of_a_folder == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    with pytest.raises(UsageError, match="does not exist yet"):
        export(model, folder)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        export(model, tmp_path / "file" / "model")
    (tmp_path / "lacking").mkdir()
    del model.weights["bert/pooler/dense/kernel"]
    with pytest.raises((KeyError, ValueError)):
        export_saved_model(model, tmp_path / "lacking" / "model", SLOTS)
    assert list((tmp_path / "lacking").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"model", "other", "file", "lacking"}


@pytest.mark.parametrize("export_format", ["saved-model", "hugging-face"])
def test_the_latest_checkpoint_of_a_model_folder(export_format: str, storage: MemoryStorage, tmp_path: Path) -> None:
    model = random_model()
    progress = Progress()
    progress.steps.assign(7)
    state = TrainingState(None, model, Lamb(model.weights.values()), progress)
    SavedConfig(MODEL, TrainingConfig(("manifest.json",)), ("recipe",), 4, "run").save(storage, "/run")
    Checkpoints(storage, "/run", state, keep=1, scratch=tmp_path / "scratch").save()
    export_checkpoint(storage, "/run", tmp_path / "model", export_format)
    name = "cls/predictions/transform/dense/kernel"
    if export_format == "saved-model":
        found = tf.saved_model.load(str(tmp_path / "model")).model.weights[name].numpy()
    else:
        found = load_file(tmp_path / "model" / "model.safetensors")["cls.predictions.transform.dense.weight"].T
    assert np.array_equal(found, model.weights[name])
    with pytest.raises(UsageError, match="does not exist yet"):
        export_checkpoint(storage, "/run", tmp_path / "model", export_format)


def test_more_slots_than_positions_are_refused(tmp_path: Path) -> None:
    for slots in (0, SLOTS + 1):
        with pytest.raises(UsageError, match="max_position_embeddings"):
            export_saved_model(Bert(MODEL), tmp_path / "model", slots)
    assert list(tmp_path.iterdir()) == []


def hugging_face_bert(config: dict[str, Any], weights: dict[str, Array], batch: Example) -> tuple[Array, Array]:
    """MLM logits [B, M, V] and NSP logits [B, 2] of padded sequences, as transformers' `BertForPreTraining`."""
    assert (config["hidden_act"], config["position_embedding_type"]) == ("gelu_new", "absolute")
    ids, mask, segments = (np.asarray(batch[name]) for name in INPUTS[:3])

    def linear(name: str, x: Array) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        centered = x - x.mean(-1, keepdims=True)
        normal = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: Array) -> Array:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def heads(x: Array) -> Array:
        return x.reshape(*x.shape[:2], config["num_attention_heads"], -1).transpose(0, 2, 1, 3)

    embeddings = {name: weights[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position")}
    types = weights["bert.embeddings.token_type_embeddings.weight"]
    x = embeddings["word"][ids] + embeddings["position"][: ids.shape[1]] + types[segments]
    x = norm("bert.embeddings.LayerNorm", x)
    for index in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{index}"
        query, key, value = (heads(linear(f"{layer}.attention.self.{name}", x)) for name in ("query", "key", "value"))
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1])
        scores = np.where(mask[:, None, None, :] > 0, scores, -np.inf)
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention = attention / attention.sum(-1, keepdims=True)
        context = (attention @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        x = norm(f"{layer}.attention.output.LayerNorm", x + linear(f"{layer}.attention.output.dense", context))
        inner = gelu(linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", inner))
    masked = np.take_along_axis(x, np.asarray(batch["masked_lm_positions"])[:, :, None], 1)
    masked = norm("cls.predictions.transform.LayerNorm", gelu(linear("cls.predictions.transform.dense", masked)))
    mlm = masked @ embeddings["word"].T + weights["cls.predictions.bias"]
    return mlm, linear("cls.seq_relationship", np.tanh(linear("bert.pooler.dense", x[:, 0])))
