"""Checkpoints as others write them: TF1's by its Saver, the TF Model Garden's with the names that its models give.

Names and keys of the Garden were read from checkpoints of its own pretrainers (tf-models-official 2.15), the older
dialect from the converter in MLPerf's v0.7 results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

Arrays = Mapping[str, np.ndarray[Any, Any]]

# Our name, the path of attributes to the variable, the variable's own name (that of a head in the scope `bert`).
_GARDEN = """
bert/embeddings/word_embeddings  masked_lm/embedding_table  word_embeddings/embeddings
bert/embeddings/position_embeddings  encoder/layer_with_weights-1/embeddings  position_embedding/embeddings
bert/embeddings/token_type_embeddings  encoder/layer_with_weights-2/embeddings  type_embeddings/embeddings
bert/embeddings/LayerNorm/gamma  encoder/layer_with_weights-3/gamma  embeddings/layer_norm/gamma
bert/embeddings/LayerNorm/beta  encoder/layer_with_weights-3/beta  embeddings/layer_norm/beta
cls/predictions/transform/dense/kernel  masked_lm/dense/kernel  cls/predictions/transform/dense/kernel
cls/predictions/transform/dense/bias  masked_lm/dense/bias  cls/predictions/transform/dense/bias
cls/predictions/transform/LayerNorm/gamma  masked_lm/layer_norm/gamma  cls/predictions/transform/LayerNorm/gamma
cls/predictions/transform/LayerNorm/beta  masked_lm/layer_norm/beta  cls/predictions/transform/LayerNorm/beta
cls/predictions/output_bias  masked_lm/output_bias.bias  cls/predictions/output_bias/bias
bert/pooler/dense/kernel  next_sentence.pooler_dense/kernel  next_sentence/pooler_dense/kernel
bert/pooler/dense/bias  next_sentence.pooler_dense/bias  next_sentence/pooler_dense/bias
cls/seq_relationship/output_weights  model/classification_heads/0/out_proj/kernel  next_sentence/logits/kernel
cls/seq_relationship/output_bias  model/classification_heads/0/out_proj/bias  next_sentence/logits/bias
"""
# The same below `bert/encoder/layer_I/`, `encoder/layer_with_weights-(I + 4)/` and `transformer/layer_I/`.
_GARDEN_LAYER = """
attention/self/query/kernel       _attention_layer/_query_dense/kernel   self_attention/query/kernel
attention/self/query/bias         _attention_layer/_query_dense/bias     self_attention/query/bias
attention/self/key/kernel         _attention_layer/_key_dense/kernel     self_attention/key/kernel
attention/self/key/bias           _attention_layer/_key_dense/bias       self_attention/key/bias
attention/self/value/kernel       _attention_layer/_value_dense/kernel   self_attention/value/kernel
attention/self/value/bias         _attention_layer/_value_dense/bias     self_attention/value/bias
attention/output/dense/kernel     _attention_layer/_output_dense/kernel  self_attention/attention_output/kernel
attention/output/dense/bias       _attention_layer/_output_dense/bias    self_attention/attention_output/bias
attention/output/LayerNorm/gamma  _attention_layer_norm/gamma            self_attention_layer_norm/gamma
attention/output/LayerNorm/beta   _attention_layer_norm/beta             self_attention_layer_norm/beta
intermediate/dense/kernel         _intermediate_dense/kernel             intermediate/kernel
intermediate/dense/bias           _intermediate_dense/bias               intermediate/bias
output/dense/kernel               _output_dense/kernel                   output/kernel
output/dense/bias                 _output_dense/bias                     output/bias
output/LayerNorm/gamma            _output_layer_norm/gamma               output_layer_norm/gamma
output/LayerNorm/beta             _output_layer_norm/beta                output_layer_norm/beta
"""


class Variable(NamedTuple):
    """One variable of an object-based checkpoint."""

    path: str
    name: str
    value: np.ndarray[Any, Any]


def garden_pretrainer(arrays: Arrays, layers: int, heads: int) -> list[Variable]:
    """The variables of a `BertPretrainerV2` with a head for NSP, which has a pooler of its own."""
    rows = [row.split() for row in _GARDEN.split("\n") if row]
    for index in range(layers):
        for ours, path, name in (row.split() for row in _GARDEN_LAYER.split("\n") if row):
            layer = f"encoder/layer_with_weights-{index + 4}"
            rows.append([f"bert/encoder/layer_{index}/{ours}", f"{layer}/{path}", f"transformer/layer_{index}/{name}"])
    assert {ours for ours, _, _ in rows} == set(arrays)
    variables = [Variable(path, _scoped(name), _garden_value(name, arrays[ours], heads)) for ours, path, name in rows]
    unused = np.zeros_like(arrays["bert/pooler/dense/kernel"])
    return [*variables, Variable("encoder/layer_with_weights-6/kernel", "pooler_transform/kernel", unused)]


def older_pretrainer(arrays: Arrays, layers: int, heads: int) -> list[Variable]:
    """Those of a `BertPretrainer` of 2020, as MLPerf converted its checkpoint."""

    def older(variable: Variable) -> Variable:
        name = variable.name.replace("self_attention/attention_output", "self_attention_output")
        name = name.replace("bert/cls/", "cls/").replace("bert/next_sentence/logits", "predictions/transform/logits")
        name = name.replace("bert/next_sentence/pooler_dense", "pooler_transform")
        path = variable.path.replace("encoder/", "model/layer-0/").replace("masked_lm/", "model/layer-1/")
        return variable._replace(name=name, path=path)

    return [older(variable) for variable in garden_pretrainer(arrays, layers, heads) if variable.value.any()]


def encoder_v2(arrays: Arrays, layers: int, heads: int) -> list[Variable]:
    """Those of a `BertEncoderV2` alone, whose names stand in its scope."""
    variables = [
        variable._replace(
            name=f"bert_encoder_v2/{variable.name}".replace("bert/next_sentence/pooler_dense", "pooler_transform"),
            path=f"encoder/{number}",
        )
        for number, variable in enumerate(garden_pretrainer(arrays, layers, heads))
        if variable.value.any() and "cls/predictions" not in variable.name and "logits" not in variable.name
    ]
    assert len(variables) == 7 + 16 * layers
    return variables


def _scoped(name: str) -> str:
    return f"bert/{name}" if name.startswith(("cls/", "next_sentence/")) else name


def _garden_value(name: str, value: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    if "/self_attention/attention_output/kernel" in name:
        return value.reshape(heads, -1, value.shape[-1])
    if "/self_attention/" in name and "attention_output" not in name:
        return value.reshape(*value.shape[:-1], heads, -1)
    return value.T if name.endswith("logits/kernel") else value


def write_tf1(prefix: Path, arrays: Arrays) -> Path:
    """Write a checkpoint by names alone."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {
            name: tf.compat.v1.Variable(value, name=name, use_resource=False) for name, value in arrays.items()
        }
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables)
        return Path(saver.save(session, str(prefix), write_meta_graph=False, write_state=False))


def write_objects(prefix: Path, variables: Iterable[Variable]) -> Path:
    """Write an object-based checkpoint in which each variable lies at its path of attributes."""
    tree: dict[str, Any] = {}
    for path, name, value in variables:
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = tf.Variable(value, name=name)
    return Path(_trackable(tree).write(str(prefix)))


def _trackable(node: Any) -> Any:
    if isinstance(node, dict):
        return tf.train.Checkpoint(**{name: _trackable(child) for name, child in node.items()})
    return node
