"""Training on packs equals training on padded sequences, and does not when one of the packing changes is undone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.training.packs import MODEL, VOCABULARY, Example, group_sequences, pack, raw_sequences, stack
from training.layout import padded_layout
from training.loss import count, loss_sums
from training.model import Bert
from training.optimizer import LossScale
from training.step import GlobalGradients

pytestmark = pytest.mark.slow

GROUPINGS = {
    1: [(20,), (32,), (7,)],
    2: [(20, 12), (9, 9), (32,)],
    3: [(10, 9, 13), (5, 25), (32,), (4, 4, 4)],
    5: [(6, 5, 7, 4, 10), (3, 3, 3), (30, 2)],
}


def both_layouts(max_sequences: int) -> tuple[Example, Example]:
    """The same sequences as a batch of packs and as a padded batch in the layout that the data module makes."""
    grouped = group_sequences(GROUPINGS[max_sequences])
    packed = stack([pack(group, max_sequences) for group in grouped])
    return packed, padded_layout(stack([sequence for group in grouped for sequence in group]))


def difference(model: Bert, one: Example, other: Example) -> float:
    """Global relative difference of the gradients: the norm of all differences over the norm of all gradients."""
    gradients = [np.concatenate([g.numpy().ravel() for g in GlobalGradients(model)(x).values]) for x in (one, other)]
    return float(np.linalg.norm(gradients[0] - gradients[1]) / np.linalg.norm(gradients[1]))


@pytest.mark.parametrize("max_sequences", GROUPINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-12), (tf.float32, 1e-6)], ids=["float64", "float32"])
def test_gradients_are_those_of_padded_training(max_sequences: int, dtype: Any, tolerance: float) -> None:
    packed, padded = both_layouts(max_sequences)
    assert len(padded["input_ids"]) == packed["next_sentence_weights"].sum()
    assert difference(Bert(MODEL, dtype=dtype), packed, padded) <= tolerance


def flat_mask(batch: Example) -> Example:
    return {**batch, "input_mask": (batch["input_mask"] > 0).astype(np.int32)}


def running_positions(batch: Example) -> Example:
    mask = batch["input_mask"] > 0
    return {**batch, "positions": (np.arange(mask.shape[1]) * mask).astype(np.int32)}


def all_next_sentences(batch: Example) -> Example:
    return {**batch, "next_sentence_weights": np.ones_like(batch["next_sentence_weights"])}


def first_next_sentence(batch: Example) -> Example:
    return {**batch, "next_sentence_positions": np.zeros_like(batch["next_sentence_positions"])}


@pytest.mark.parametrize("damage", [flat_mask, running_positions, all_next_sentences, first_next_sentence])
def test_undoing_a_packing_change_shows_in_the_gradients(damage: Callable[[Example], Example]) -> None:
    packed, padded = both_layouts(3)
    assert difference(Bert(MODEL, dtype=tf.float64), damage(packed), padded) > 1e-3


def test_sequence_numbers_as_weights_would_show_in_the_gradients() -> None:
    """What the cast of MLM weights prevents: the numbers stand in valid data, so the loss without it is built here."""
    packed, padded = both_layouts(3)
    model = Bert(MODEL, dtype=tf.float64)
    assert packed["masked_lm_weights"].max() == 3

    def mlm_gradient(batch: Example, weights: tf.Tensor) -> np.ndarray[Any, Any]:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["masked_lm_ids"], model(batch).mlm_logits)
            loss = tf.reduce_sum(losses * tf.cast(weights, tf.float64)) / float(np.sum(weights))
        gradient = tape.gradient(loss, model.weights["cls/predictions/transform/dense/kernel"])
        return np.asarray(gradient)

    expected = mlm_gradient(padded, padded["masked_lm_weights"])
    cast = mlm_gradient(packed, packed["masked_lm_weights"] > 0)
    uncast = mlm_gradient(packed, packed["masked_lm_weights"])
    np.testing.assert_allclose(cast, expected, rtol=1e-9, atol=1e-15)
    assert np.linalg.norm(uncast - expected) > 0.01 * np.linalg.norm(expected)


def test_counts_and_hits_are_those_of_padded_data() -> None:
    packed, padded = both_layouts(3)
    model = Bert(MODEL, dtype=tf.float64)
    counts, other_counts = count(packed, tf.float64), count(padded, tf.float64)
    assert (
        float(counts.masked_tokens) == float(other_counts.masked_tokens) == (padded["masked_lm_weights"] > 0).sum() > 0
    )
    assert float(counts.sequences) == float(other_counts.sequences) == len(padded["input_ids"])
    assert float(counts.real_tokens) == float(other_counts.real_tokens) == sum(map(sum, GROUPINGS[3]))
    assert float(counts.examples) == len(packed["input_ids"]) < float(other_counts.examples)
    one, other = loss_sums(model(packed), packed), loss_sums(model(padded), padded)
    np.testing.assert_allclose([float(x) for x in one], [float(x) for x in other], rtol=1e-12)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_sequence_sees_nothing_of_its_neighbours(dtype: Any) -> None:
    first, second, third = raw_sequences([10, 12, 9])
    other = {**second, "input_ids": (second["input_ids"] % (VOCABULARY - 1) + 1) * second["input_mask"]}
    model = Bert(MODEL, dtype=dtype)
    before, after = (model(stack([pack([first, middle, third], 3)])) for middle in (second, other))
    weights = pack([first, second, third], 3)["masked_lm_weights"]
    of_second, of_others = weights == 2, (weights == 1) | (weights == 3)
    assert of_second.any()
    assert of_others.any()
    for row, changed in ((of_second, True), (of_others, False)):
        same = np.array_equal(before.mlm_logits.numpy()[0, row], after.mlm_logits.numpy()[0, row])
        assert same is not changed
    np.testing.assert_array_equal(before.nsp_logits.numpy()[0, [0, 2]], after.nsp_logits.numpy()[0, [0, 2]])
    assert not np.array_equal(before.nsp_logits.numpy()[0, 1], after.nsp_logits.numpy()[0, 1])


def test_uneven_replicas_add_up_to_the_whole_batch() -> None:
    """On a process of its own, because TensorFlow's devices cannot be divided once it has started."""
    program = [sys.executable, "-m", "tests.training.replicas"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["shares"] == [5, 4]
    assert report["sequences"] == [9, 9]
    assert max(report["gradients"]) <= 1e-12
    assert report["weights"] <= 1e-12
    assert report["progress"] == [3, 27]
    assert report["real_tokens"] == sum(map(sum, GROUPINGS[3]))


def gradients_of(model: Bert, batch: Example, **options: Any) -> np.ndarray[Any, Any]:
    compiled = tf.function(lambda share: GlobalGradients(model, **options)(share).values)
    return np.concatenate([np.asarray(g).ravel() for g in compiled({k: tf.constant(v) for k, v in batch.items()})])


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_add_up_to_the_whole_batch(micro_batches: int) -> None:
    """Their packs hold unequal numbers of sequences and masked tokens, so a mean of means would differ."""
    packed, _ = both_layouts(3)
    model = Bert(MODEL, dtype=tf.float64)
    whole, parts = gradients_of(model, packed), gradients_of(model, packed, micro_batches=micro_batches)
    assert np.linalg.norm(parts - whole) <= 1e-12 * np.linalg.norm(whole)


def test_empty_examples_weigh_nothing() -> None:
    packed, _ = both_layouts(3)
    filled = {name: np.concatenate([x, np.zeros_like(x)]) for name, x in packed.items()}
    model = Bert(MODEL, dtype=tf.float64)
    whole, more = gradients_of(model, packed), gradients_of(model, filled)
    assert np.linalg.norm(more - whole) <= 1e-12 * np.linalg.norm(whole)
    assert float(count(filled, tf.float64).examples) == len(packed["input_ids"])


def test_xla_computes_the_same() -> None:
    packed, padded = both_layouts(3)
    model = Bert(MODEL, dtype=tf.float64)
    expected = gradients_of(model, padded)
    for micro_batches in (1, 2):
        compiled = gradients_of(model, packed, micro_batches=micro_batches, xla=True)
        assert np.linalg.norm(compiled - expected) <= 1e-12 * np.linalg.norm(expected)


@pytest.mark.parametrize(("dtype", "bits"), [(tf.bfloat16, 8), (tf.float16, 11)], ids=["bfloat16", "float16"])
def test_16_bits_come_near_32(dtype: Any, bits: int) -> None:
    """Within a few units of the last of the format's significant bits, packed and padded alike."""
    packed, padded = both_layouts(3)
    expected = gradients_of(Bert(MODEL), packed)
    scale = LossScale() if dtype == tf.float16 else None
    for batch in (packed, padded):
        found = gradients_of(Bert(MODEL, compute_dtype=dtype), batch, scale=scale)
        assert found.dtype == np.float32
        assert 0 < np.linalg.norm(found - expected) <= 8 * 2.0**-bits * np.linalg.norm(expected)
