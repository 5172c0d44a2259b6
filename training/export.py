"""A trained model for others: as a TensorFlow SavedModel, and in the layout of Hugging Face's `transformers`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from safetensors.numpy import save_file

from packing.errors import StorageError, UsageError
from packing.ports import Storage
from training.checkpoint import restore_weights
from training.config import ModelConfig
from training.model import Batch, Bert
from training.names import hugging_face_name
from training.saved import SavedConfig


def export_checkpoint(storage: Storage, model_dir: str, folder: Path, export_format: str) -> None:
    """Write the model of the latest checkpoint in the model folder (a URI) to `folder`, for all its positions.

    `export_format` is "saved-model" or "hugging-face". Raises UsageError if `folder` exists, or for no such checkpoint.
    """
    _check_new(folder)
    model = Bert(SavedConfig.load(storage, model_dir).model)
    restore_weights(storage, model, model_dir)
    if export_format == "hugging-face":
        export_hugging_face(model, folder)
    else:
        export_saved_model(model, folder, model.config.max_position_embeddings)


def export_saved_model(model: Bert, folder: Path, max_sequence_length: int) -> None:
    """Write `model` as a SavedModel with two signatures, for any batch size B and L = `max_sequence_length`.

    - `serving_default` computes what training does. From the packed features that matter to the model (int32): ids,
      mask, segments and positions [B, L], `masked_lm_positions` [B, M] and `next_sentence_positions` [B, K], for any M
      and K; to `mlm_logits` [B, M, V] and `nsp_logits` [B, K, 2], bit for bit those of the model itself where that is
      compiled for any B too (for one B alone, TensorFlow may fuse other operations).
    - `encode` is for other tasks, on padded data: from int32[B, L] `input_ids`, `input_mask` (1, then 0) and
      `segment_ids` to `sequence_output` [B, L, H] and `pooled_output` [B, H], that of the first slot.

    Raises UsageError if `folder` exists or L exceeds the model's position embeddings.
    """
    if not 1 <= max_sequence_length <= model.config.max_position_embeddings:
        raise UsageError(
            f"max_sequence_length: expected 1 to {model.config.max_position_embeddings} (the model's "
            f"max_position_embeddings), got {max_sequence_length}"
        )
    serving = _Serving(model)
    with _whole_folder(folder) as target:
        tf.saved_model.save(serving, str(target), signatures=serving.signatures(max_sequence_length))


def export_hugging_face(model: Bert, folder: Path) -> None:
    """Write `model` as `config.json` and `model.safetensors` of a Hugging Face `BertForPreTraining`.

    Raises UsageError if `folder` exists.
    """
    tensors = {}
    for name, variable in model.weights.items():
        value = variable.numpy()
        # A Linear of PyTorch keeps [outputs, inputs]; save_file reads memory in order, whatever the strides.
        tensors[hugging_face_name(name)] = np.ascontiguousarray(value.T if name.endswith("/kernel") else value)
    config = json.dumps(_hugging_face_config(model.config, model.dtype), indent=2, sort_keys=True)
    with _whole_folder(folder) as target:
        target.mkdir()
        (target / "config.json").write_text(config + "\n", encoding="utf-8")
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _hugging_face_config(config: ModelConfig, dtype: Any) -> dict[str, Any]:
    return {
        **asdict(config),
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        "hidden_act": "gelu_new",  # their name of the tanh approximation
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "torch_dtype": dtype.name,
    }


class _Serving(tf.Module):  # type: ignore[misc]
    """The functions behind a SavedModel's signatures."""

    def __init__(self, model: Bert) -> None:
        super().__init__(name="serving")
        self.model = model
        self._pretraining = tf.function(self._predict)
        self._encoder = tf.function(self._encode)

    def signatures(self, slots: int) -> dict[str, Any]:
        """A concrete function for each signature."""

        def spec(name: str, length: int | None = slots) -> tf.TensorSpec:
            return tf.TensorSpec([None, length], tf.int32, name)

        encoder = {name: spec(name) for name in ("input_ids", "input_mask", "segment_ids")}
        places = {name: spec(name, None) for name in ("masked_lm_positions", "next_sentence_positions")}
        packed = {**encoder, "positions": spec("positions"), **places}
        return {
            "serving_default": self._pretraining.get_concrete_function(packed),
            "encode": self._encoder.get_concrete_function(encoder),
        }

    def _predict(self, batch: Batch) -> dict[str, tf.Tensor]:
        outputs = self.model(batch)
        return {"mlm_logits": outputs.mlm_logits, "nsp_logits": outputs.nsp_logits}

    def _encode(self, batch: Batch) -> dict[str, tf.Tensor]:
        mask = batch["input_mask"]
        positions = tf.range(tf.shape(mask)[1])[None, :] * mask
        sequence = self.model.sequence_output({**batch, "positions": positions})
        pooled = self.model.pool(sequence[:, 0])
        return {
            "sequence_output": tf.cast(sequence, self.model.dtype),
            "pooled_output": tf.cast(pooled, self.model.dtype),
        }


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A path beside `folder` to write a folder to, which takes its place at the end; nothing is left of a failure."""
    _check_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            target = Path(temporary) / folder.name
            yield target
            target.rename(folder)
    except (OSError, tf.errors.OpError) as exc:
        raise StorageError(f"{folder}: cannot be written ({exc})") from exc


def _check_new(folder: Path) -> None:
    if folder.exists():
        raise UsageError(f"{folder}: expected a folder that does not exist yet, found one; give another or remove it")
