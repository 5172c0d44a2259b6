"""Evaluation: the same figures for the same sequences, packed or padded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from packing.errors import InputError
from packing.ports import Storage
from training.checkpoint import restore_weights
from training.config import SavedConfig
from training.data import check_model, evaluation_batches, open_examples
from training.loss import LossSums, loss_sums
from training.model import Batch, Bert


@dataclass(frozen=True)
class Evaluation:
    """Means over all masked tokens (MLM) and all sequences (NSP); losses in nats."""

    sequences: int
    masked_tokens: int
    mlm_loss: float
    mlm_accuracy: float
    nsp_loss: float
    nsp_accuracy: float

    def metrics(self) -> dict[str, float]:
        return {f"eval/{name}": float(value) for name, value in asdict(self).items()}


def evaluate_checkpoint(
    storage: Storage, data: str, model_dir: Path, *, batch_size: int = 8, cache: Path | None = None
) -> Evaluation:
    """Evaluate the latest checkpoint in `model_dir` on all of a manifest's packs or a raw prefix's sequences."""
    saved = SavedConfig.load(model_dir)
    examples = open_examples(storage, data, cache or model_dir / "cache")
    check_model(examples, saved.model)
    model = Bert(saved.model)
    restore_weights(model, model_dir)
    return evaluate(model, evaluation_batches(examples, saved.model, batch_size=batch_size), data)


def evaluate(model: Bert, batches: tf.data.Dataset, uri: str) -> Evaluation:
    """Evaluate without dropout, sums in float64; raises InputError naming `uri` for examples of a wrong form."""

    def batch_sums(batch: Batch) -> tf.Tensor:
        return tf.stack(loss_sums(model(batch), batch))

    compiled = tf.function(batch_sums, input_signature=[batches.element_spec])
    total = tf.zeros([len(LossSums._fields)], tf.float64)
    try:
        for batch in batches:
            total += tf.cast(compiled(batch), tf.float64)
    except tf.errors.InvalidArgumentError as exc:
        raise InputError(f"{uri}: {exc.message}") from exc
    sums = LossSums(*(float(value) for value in total.numpy()))
    masked, sequences = max(sums.masked_tokens, 1), max(sums.sequences, 1)
    return Evaluation(
        sequences=int(sums.sequences),
        masked_tokens=int(sums.masked_tokens),
        mlm_loss=sums.mlm_loss / masked,
        mlm_accuracy=sums.mlm_correct / masked,
        nsp_loss=sums.nsp_loss / sequences,
        nsp_accuracy=sums.nsp_correct / sequences,
    )
