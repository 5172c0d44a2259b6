"""What a training step computes, and what devices could: numerator and denominator of MFU.

MFU (model FLOPs utilization; Chowdhery et al. 2022, arXiv 2204.02311, appendix B) is `flops_per_example` times the
examples per second, divided by `peak_flops` of all devices. Padding counts as work here; the share of real tokens
says what was useful.
"""

from __future__ import annotations

import re

from training.config import ModelConfig

# Dense peaks in TFLOP/s by the words of a device's name, the more special first: (float16, bfloat16, float32). From
# NVIDIA's data sheets (figures with sparsity are halved) and Intel's table of Gaudi generations (Hot Chips 2024). From
# A100 on, float32 means TF32, in which TensorFlow multiplies by default.
_PEAKS: tuple[tuple[tuple[str, ...], tuple[float | None, float | None, float | None]], ...] = (
    (("v100", "pcie"), (112.0, None, 14.0)),
    (("v100",), (125.0, None, 15.7)),
    (("t4",), (65.0, None, 8.1)),
    (("a100",), (312.0, 312.0, 156.0)),
    (("l4",), (121.0, 121.0, 60.0)),
    (("h100", "pcie"), (756.0, 756.0, 378.0)),
    (("h100", "nvl"), (835.5, 835.5, 417.5)),
    (("h100",), (989.4, 989.4, 494.7)),
    (("h200", "nvl"), (835.5, 835.5, 417.5)),
    (("h200",), (989.4, 989.4, 494.7)),
    (("b200",), (2250.0, 2250.0, 1125.0)),
    (("gaudi",), (None, 60.0, None)),
    (("gaudi2",), (None, 432.0, None)),
    (("gaudi3",), (None, 1835.0, None)),
)
_DTYPES = ("float16", "bfloat16", "float32")


def flops_per_example(config: ModelConfig, slots: int, masked_slots: int) -> float:
    """Floating-point operations of one training step on one example of `slots` slots, `masked_slots` of them masked.

    With N layers, hidden size H, intermediate size I, S slots, vocabulary V and M masked slots, the sum of

    - `S N (24 H^2 + 12 H I)`: the dense layers of the encoder (query, key, value, output; two of the feed-forward);
      `72 N S H^2` where I = 4 H;
    - `S N 12 S H`: attention's two products of a slot with all S slots, masked or not;
    - `6 M (H^2 + H V)`: the MLM head, on gathered slots.

    A product of n by m weights with a vector is 2 n m operations forward and twice that backward, hence 6. Embeddings,
    pooler, norms, softmax, dropout and the optimizer are left out: below 1 % together. Work done twice, as for
    recomputed activations, does not count.
    """
    layers, hidden = config.num_hidden_layers, config.hidden_size
    dense = slots * layers * (24 * hidden**2 + 12 * hidden * config.intermediate_size)
    attention = slots * layers * 12 * slots * hidden
    head = 6 * masked_slots * (hidden**2 + hidden * config.vocab_size)
    return float(dense + attention + head)


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Published dense peak in FLOP/s of one device for matrix products in `dtype`; None where it is not known.

    `device_name` is what TensorFlow reports, such as "NVIDIA A100-SXM4-40GB".
    """
    words = set(re.split(r"[^a-z0-9]+", device_name.casefold()))
    for needed, peaks in _PEAKS:
        if words.issuperset(needed):
            peak = dict(zip(_DTYPES, peaks, strict=True)).get(dtype)
            return None if peak is None else peak * 1e12
    return None
