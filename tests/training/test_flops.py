from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.training.packs import MODEL, raw_sequences, stack
from training.config import MODELS, ModelConfig
from training.flops import flops_per_example, peak_flops
from training.layout import padded_layout
from training.model import Bert


def test_bert_large_at_512() -> None:
    assert flops_per_example(MODELS["large"], 512, 79) == pytest.approx(1.02e12, rel=2e-3)


@given(layers=st.integers(1, 48), heads=st.integers(1, 32), slots=st.integers(1, 8192), masked=st.integers(0, 1300))
def test_formula_of_the_design(layers: int, heads: int, slots: int, masked: int) -> None:
    hidden, vocabulary = 64 * heads, 30522
    config = ModelConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=4 * hidden
    )
    expected = slots * (72 * layers * hidden**2 + 12 * layers * slots * hidden)
    expected += 6 * masked * (hidden**2 + hidden * vocabulary)
    assert flops_per_example(config, slots, masked) == expected


def test_three_times_the_products_of_the_forward_pass() -> None:
    config = replace(MODEL, hidden_size=32, intermediate_size=80, vocab_size=200)
    batch = padded_layout(stack(raw_sequences([20, 32])))
    graph = tf.function(Bert(config).__call__).get_concrete_function(
        {name: tf.TensorSpec(value.shape, tf.as_dtype(value.dtype)) for name, value in batch.items()}
    )
    products = 0.0
    for operation in graph.graph.get_operations():
        if operation.type in ("MatMul", "BatchMatMulV2"):
            (_, left), right = (x.shape.as_list()[-2:] for x in operation.inputs)
            inner = left if not operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x") else None
            assert inner in right
            products += 2.0 * inner * np.prod(operation.outputs[0].shape.as_list())
    assert products
    examples, slots = batch["input_ids"].shape
    expected = examples * flops_per_example(config, slots, batch["masked_lm_positions"].shape[1])
    # Besides: the product with the one-hot segments, the pooler and the NSP head.
    assert expected <= 3 * products <= 1.05 * expected


@pytest.mark.parametrize(
    ("name", "dtype", "tflops"),
    [
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 312),
        ("NVIDIA A100-SXM4-40GB", "float32", 156),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H200", "float16", 989.4),
        ("NVIDIA B200", "bfloat16", 2250),
        ("Tesla V100-SXM2-16GB", "float16", 125),
        ("Tesla V100-PCIE-16GB", "float16", 112),
        ("Tesla T4", "float32", 8.1),
        ("NVIDIA L4", "bfloat16", 121),
        ("Gaudi2", "bfloat16", 432),
    ],
)
def test_published_peaks(name: str, dtype: str, tflops: float) -> None:
    assert peak_flops(name, dtype) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("cpu", "float32"), ("", "float32"), ("Tesla V100-SXM2-16GB", "bfloat16"), ("NVIDIA L40S", "float16")],
)
def test_unknown_peaks(name: str, dtype: str) -> None:
    assert peak_flops(name, dtype) is None
