"""Evaluation: the same figures for the same sequences, packed or padded, on any number of replicas."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from packing.ports import Storage
from training.background import StoppedError
from training.checkpoint import restore_weights
from training.data import batch_errors, evaluation_batches
from training.devices import Worker, local_replicas, open_strategy
from training.errors import DivergedError
from training.examples import Examples, check_model, open_examples
from training.loss import Counts, LossSums, count, loss_sums, means
from training.model import Batch, Bert
from training.saved import SavedConfig
from training.shards import Cache


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
    storage: Storage, data: str, model_dir: str, *, cache: Cache, batch_size: int = 8
) -> Evaluation:
    """Evaluate the latest checkpoint in `model_dir` on all of a manifest's packs or a raw prefix's sequences."""
    saved = SavedConfig.load(storage, model_dir)
    strategy = open_strategy("cpu")
    with strategy.scope():
        model = Bert(saved.model)
    with closing(open_examples(storage, data, cache)) as examples:
        check_model(examples, saved.model)
        restore_weights(storage, model, model_dir)
        return Evaluator(strategy, Worker(), model, examples, batch_size=batch_size)()


class Evaluator:
    """Evaluates `model` on the first `limit` examples (all by default), without dropout, whenever it is called.

    `batch_size` is that of one replica. All workers of a strategy must call it together; each gets the same figures.
    """

    def __init__(
        self,
        strategy: Any,
        worker: Worker,
        model: Bert,
        examples: Examples,
        *,
        batch_size: int = 8,
        limit: int | None = None,
    ) -> None:
        self._strategy, self._model, self._examples = strategy, model, examples
        self._batches = evaluation_batches(
            examples,
            model.config,
            batch_size=batch_size,
            limit=limit,
            shares=local_replicas(strategy, worker),
            replicas=strategy.num_replicas_in_sync,
        )
        self._sums_of = tf.function(self._batch_sums)

    def __call__(self, stop_requested: Callable[[], bool] = lambda: False) -> Evaluation:
        """Sums are added up in float64; raises StoppedError once `stop_requested` is true.

        Raises InputError naming the data for examples of a wrong form, DivergedError for losses that are no numbers.
        """
        total = tf.zeros([len(LossSums._fields) + len(Counts._fields)], tf.float64)
        batches = self._strategy.distribute_datasets_from_function(lambda _: self._batches)
        with batch_errors([self._examples]):
            for batch in batches:
                if stop_requested():
                    raise StoppedError(self._examples.uri)
                total += tf.cast(self._sums_of(batch), tf.float64)
        values = [float(value) for value in total.numpy()]
        sums, counts = LossSums(*values[: len(LossSums._fields)]), Counts(*values[len(LossSums._fields) :])
        evaluation = Evaluation(int(counts.sequences), int(counts.masked_tokens), **means(sums, counts))
        if not (math.isfinite(evaluation.mlm_loss) and math.isfinite(evaluation.nsp_loss)):
            raise DivergedError(
                f"{self._examples.uri}: expected losses that are numbers, found mlm_loss {evaluation.mlm_loss} and "
                f"nsp_loss {evaluation.nsp_loss}; the weights have diverged: delete the checkpoint's .json to go back"
            )
        return evaluation

    def _batch_sums(self, batch: Any) -> tf.Tensor:
        def on_replica(share: Batch) -> tf.Tensor:
            return tf.stack([*loss_sums(self._model(share), share), *count(share, self._model.dtype)])

        sums = self._strategy.run(on_replica, args=(batch,))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)
