"""BERT for pretraining (Devlin et al. 2018, arXiv 1810.04805), packed and padded alike, as one plain `tf.Module`.

What packing changes: attention is blocked between sequences (`masks`), position embeddings follow `positions`, MLM
counts every masked slot whose weight is above 0, and NSP reads the [CLS] of each sequence. Nothing depends on K.
Weights bear the names of the published TF1 checkpoints; GELU is their tanh approximation.

Matrix products and what they are fed with have the compute dtype; sums of embeddings, layer norms, softmax and logits
have the dtype of the weights, as 16 bits would lose what matters there (Micikevicius et al. 2017, arXiv 1710.03740).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from training.config import ModelConfig
from training.masks import attention_bias

Batch = Mapping[str, tf.Tensor]

_LAYER_NORM_EPSILON = 1e-12
_DROPOUT_SITES = 1024


class Outputs(NamedTuple):
    """`mlm_logits` [B, M, V] for the masked slots, `nsp_logits` [B, K, 2] for the sequences of each pack."""

    mlm_logits: tf.Tensor
    nsp_logits: tf.Tensor


class Dropout:
    """Dropout of one forward pass that depends on (seed, step, replica) alone, so that a resumed run repeats it."""

    def __init__(self, seed: int, stream: tf.Tensor) -> None:
        """`stream`, a scalar integer tensor, differs for every step and replica."""
        self._seed, self._stream, self._site = seed, tf.cast(stream, tf.int64), 0

    def __call__(self, x: tf.Tensor, rate: float) -> tf.Tensor:
        self._site += 1
        seed = tf.stack([tf.constant(self._seed * _DROPOUT_SITES + self._site, tf.int64), self._stream])
        return tf.nn.experimental.stateless_dropout(x, rate, seed=seed) if rate else x


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, in the order in which the data meets them."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (config.vocab_size, hidden),
        "bert/embeddings/position_embeddings": (config.max_position_embeddings, hidden),
        "bert/embeddings/token_type_embeddings": (config.type_vocab_size, hidden),
    }

    def dense(name: str, inputs: int, outputs: int) -> None:
        shapes.update({f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)})

    def layer_norm(name: str) -> None:
        shapes.update({f"{name}/gamma": (hidden,), f"{name}/beta": (hidden,)})

    layer_norm("bert/embeddings/LayerNorm")
    for index in range(config.num_hidden_layers):
        layer = f"bert/encoder/layer_{index}"
        for projection in ("query", "key", "value"):
            dense(f"{layer}/attention/self/{projection}", hidden, hidden)
        dense(f"{layer}/attention/output/dense", hidden, hidden)
        layer_norm(f"{layer}/attention/output/LayerNorm")
        dense(f"{layer}/intermediate/dense", hidden, intermediate)
        dense(f"{layer}/output/dense", intermediate, hidden)
        layer_norm(f"{layer}/output/LayerNorm")
    dense("bert/pooler/dense", hidden, hidden)
    dense("cls/predictions/transform/dense", hidden, hidden)
    layer_norm("cls/predictions/transform/LayerNorm")
    shapes["cls/predictions/output_bias"] = (config.vocab_size,)
    shapes["cls/seq_relationship/output_weights"] = (2, hidden)
    shapes["cls/seq_relationship/output_bias"] = (2,)
    return shapes


class Bert(tf.Module):  # type: ignore[misc]
    """BERT with both pretraining heads; `weights` maps names to variables of `dtype`, all trainable."""

    def __init__(
        self, config: ModelConfig, *, seed: int = 0, dtype: Any = tf.float32, compute_dtype: Any = None
    ) -> None:
        """`seed` is that of the initial weights; `compute_dtype` defaults to `dtype`."""
        super().__init__(name="bert")
        self.config, self.dtype, self.compute_dtype = config, dtype, compute_dtype or dtype
        self.weights = {
            name: tf.Variable(_initial_value(name, shape, (seed, index), config, dtype), name=name)
            for index, (name, shape) in enumerate(weight_shapes(config).items())
        }

    def __call__(self, batch: Batch, dropout: Dropout | None = None) -> Outputs:
        """Logits of a batch of packs in the packed feature layout (ids int32[B, L] and so on)."""
        hidden, slots = self._encode_all(batch, dropout), tf.shape(batch["input_ids"])[1]
        masked = _gather_slots(hidden, batch["masked_lm_positions"], slots)
        first = _gather_slots(hidden, batch["next_sentence_positions"], slots)
        return Outputs(
            _unflatten(self._predict_masked(masked), batch["masked_lm_positions"]),
            _unflatten(self._predict_next(self.pool(first)), batch["next_sentence_positions"]),
        )

    def sequence_output(self, batch: Batch, dropout: Dropout | None = None) -> tf.Tensor:
        """The last layer's output [B, L, H], of which only slots of sequences mean anything."""
        return _unflatten(self._encode_all(batch, dropout), batch["input_ids"])

    def pool(self, first: tf.Tensor) -> tf.Tensor:
        """The pooler's output [N, H] for the last layer's output at N [CLS] slots."""
        return tf.tanh(self._dense("bert/pooler/dense", first))

    def _encode_all(self, batch: Batch, dropout: Dropout | None) -> tf.Tensor:
        """Gives [B * L, H]; all slots stand in one axis, which keeps every dense layer one matmul."""
        hidden = self._embed(batch, dropout)
        bias = attention_bias(batch["input_mask"], self.dtype)
        for index in range(self.config.num_hidden_layers):
            hidden = self._encode(f"bert/encoder/layer_{index}", hidden, bias, dropout)
        return hidden

    def _embed(self, batch: Batch, dropout: Dropout | None) -> tf.Tensor:
        ids, segments, positions = (tf.reshape(batch[name], [-1]) for name in ("input_ids", "segment_ids", "positions"))
        words = tf.gather(self.weights["bert/embeddings/word_embeddings"], ids)
        places = tf.gather(self.weights["bert/embeddings/position_embeddings"], positions)
        # A gather from two rows has a slow gradient; as in google-research/bert, a product with a one-hot matrix.
        types = tf.one_hot(segments, self.config.type_vocab_size, dtype=self.dtype)
        types = tf.matmul(types, self.weights["bert/embeddings/token_type_embeddings"])
        hidden = self._layer_norm("bert/embeddings/LayerNorm", words + places + types)
        return _drop(hidden, self.config.hidden_dropout_prob, dropout)

    def _encode(self, layer: str, hidden: tf.Tensor, bias: tf.Tensor, dropout: Dropout | None) -> tf.Tensor:
        rate = self.config.hidden_dropout_prob
        context = self._attend(f"{layer}/attention/self", hidden, bias, dropout)
        attended = _drop(self._dense(f"{layer}/attention/output/dense", context), rate, dropout)
        hidden = self._layer_norm(f"{layer}/attention/output/LayerNorm", hidden + attended)
        inner = tf.nn.gelu(self._dense(f"{layer}/intermediate/dense", hidden), approximate=True)
        outer = _drop(self._dense(f"{layer}/output/dense", inner), rate, dropout)
        return self._layer_norm(f"{layer}/output/LayerNorm", hidden + outer)

    def _attend(self, name: str, hidden: tf.Tensor, bias: tf.Tensor, dropout: Dropout | None) -> tf.Tensor:
        slots = tf.shape(bias)[-1]
        heads, depth = self.config.num_attention_heads, self.config.hidden_size // self.config.num_attention_heads

        def split(projection: str) -> tf.Tensor:
            x = tf.reshape(self._dense(f"{name}/{projection}", hidden), [-1, slots, heads, depth])
            return tf.transpose(x, [0, 2, 1, 3])

        query, key, value = split("query") * depth**-0.5, split("key"), split("value")
        weights = tf.nn.softmax(tf.cast(tf.matmul(query, key, transpose_b=True), bias.dtype) + bias)
        weights = _drop(tf.cast(weights, self.compute_dtype), self.config.attention_probs_dropout_prob, dropout)
        context = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        return tf.reshape(context, [-1, self.config.hidden_size])

    def _predict_masked(self, hidden: tf.Tensor) -> tf.Tensor:
        hidden = tf.nn.gelu(self._dense("cls/predictions/transform/dense", hidden), approximate=True)
        hidden = self._layer_norm("cls/predictions/transform/LayerNorm", hidden)
        return self._logits(hidden, "bert/embeddings/word_embeddings", "cls/predictions/output_bias")

    def _predict_next(self, pooled: tf.Tensor) -> tf.Tensor:
        return self._logits(pooled, "cls/seq_relationship/output_weights", "cls/seq_relationship/output_bias")

    def _logits(self, hidden: tf.Tensor, kernel: str, bias: str) -> tf.Tensor:
        logits = tf.matmul(hidden, self._weight(kernel), transpose_b=True)
        return tf.cast(logits, self.dtype) + self.weights[bias]

    def _dense(self, name: str, x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x, self._weight(f"{name}/kernel")) + self._weight(f"{name}/bias")

    def _weight(self, name: str) -> tf.Tensor:
        return tf.cast(self.weights[name], self.compute_dtype)

    def _layer_norm(self, name: str, x: tf.Tensor) -> tf.Tensor:
        x = tf.cast(x, self.dtype)
        centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
        normal = centered * tf.math.rsqrt(variance + _LAYER_NORM_EPSILON)
        normal = normal * self.weights[f"{name}/gamma"] + self.weights[f"{name}/beta"]
        return tf.cast(normal, self.compute_dtype)


def _initial_value(
    name: str, shape: tuple[int, ...], seed: tuple[int, int], config: ModelConfig, dtype: Any
) -> tf.Tensor:
    if name.endswith("gamma"):
        return tf.ones(shape, dtype)
    if len(shape) == 1:
        return tf.zeros(shape, dtype)
    return tf.random.stateless_truncated_normal(shape, seed, stddev=config.initializer_range, dtype=dtype)


def _drop(x: tf.Tensor, rate: float, dropout: Dropout | None) -> tf.Tensor:
    return x if dropout is None else dropout(x, rate)


def _gather_slots(hidden: tf.Tensor, positions: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
    """Rows of [B * L, H] at `positions` [B, N] within each pack; gives [B * N, H]."""
    offsets = tf.range(tf.shape(positions)[0])[:, None] * slots
    return tf.gather(hidden, tf.reshape(positions + offsets, [-1]))


def _unflatten(rows: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.reshape(rows, tf.concat([tf.shape(like), [-1]], axis=0))
