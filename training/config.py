"""What a user decides about a training run, checked before any work; imports no TensorFlow.

Runtime values (steps done, sequences seen) live in `training.step.Progress`, never here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from packing.errors import UsageError

PUBLISHED_CONFIG = "bert_config.json"
"""The file beside published checkpoints that has the shape of their model."""
MODES = ("packed", "padded", "bucketed")
STRATEGIES = ("cpu", "mirrored", "multi-worker", "hpu")
COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
MAX_DIMENSION = 2**24
"""Of a model; what is larger is a mistake, which TensorFlow would only find after it has filled the memory."""
MAX_SEQUENCES_PER_STEP = 2**20

Config = TypeVar("Config", "ModelConfig", "TrainingConfig")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a BERT, in the field names of the published `bert_config.json` files."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or not 1 <= value <= MAX_DIMENSION):
                raise UsageError(f"model: {field.name}: expected an integer from 1 to {MAX_DIMENSION}, got {value!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and type(value) not in (int, float):
                raise UsageError(f"model: {field.name}: expected a number, got {value!r}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"model: {name}: expected 0 <= p < 1, got {getattr(self, name)!r}")
        if not 0 < self.initializer_range <= 1:
            raise UsageError(f"model: initializer_range: expected 0 < range <= 1, got {self.initializer_range!r}")
        if self.hidden_size % self.num_attention_heads:
            raise UsageError(
                f"model: hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )


def _published(layers: int, hidden: int) -> ModelConfig:
    """Heads of 64 and a feed-forward of 4H, as in every published BERT (Turc et al. 2019, arXiv 1908.08962)."""
    return ModelConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=hidden // 64, intermediate_size=4 * hidden
    )


MODELS: Mapping[str, ModelConfig] = {
    "tiny": _published(2, 128),
    "mini": _published(4, 256),
    "base": _published(12, 768),
    "large": _published(24, 1024),
}


def load_model_config(name: str) -> ModelConfig:
    """A published size by name, or the ModelConfig in a `bert_config.json`; raises UsageError for unknown fields.

    Fields of the multilingual models, which their code does not read either, are left out.
    """
    if name in MODELS:
        return MODELS[name]
    if not name.endswith(".json"):
        raise UsageError(f"model: expected {', '.join(MODELS)} or a path to a .json file, got {name!r}")
    try:
        content = Path(name).read_bytes()
    except OSError as exc:
        raise UsageError(f"{name}: not a readable JSON file ({exc})") from exc
    document = parse_json(content, name)
    document = {name: value for name, value in document.items() if not name.startswith(_UNUSED_FIELDS)}
    activation = document.pop("hidden_act", "gelu")
    if activation != "gelu":
        raise UsageError(f"{name}: hidden_act: expected 'gelu', got {activation!r}")
    return build(ModelConfig, document, name)


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. Exactly one of `steps` and `sequences` may be given; with neither, one pass over the data.

    `data` names manifests in mode "packed" (epoch e reads number e modulo their number: the same raw data packed with
    other seeds), and one prefix of raw shards in the modes "padded" and "bucketed". Batches, schedules, evaluations and
    stopping count sequences, never packs, so that all modes mean the same. `cache_bytes` bounds the local copies of
    shards and with them how far records are shuffled; None is no bound.
    """

    data: tuple[str, ...]
    mode: str = "packed"
    steps: int | None = None
    sequences: int | None = None
    sequences_per_step: int = 32
    micro_batches: int = 1
    learning_rate: float = 4.25e-4
    warmup_sequences: int = 0
    decay_power: float = 1.0
    weight_decay: float = 0.01
    seed: int = 0
    init_checkpoint: str | None = None
    strategy: str = "cpu"
    compute_dtype: str = "float32"
    xla: bool = False
    deterministic: bool = False
    cache_bytes: int | None = None
    log_every: int = 10
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    eval_data: str | None = None
    eval_sequences: int | None = None
    eval_every: int | None = None
    target_mlm_accuracy: float | None = None
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, MODES)
        _check_choice("strategy", self.strategy, STRATEGIES)
        _check_choice("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        if self.steps is not None and self.sequences is not None:
            raise UsageError("steps and sequences: expected at most one of them, got both")
        for name in _COUNTS:
            _check_at_least(name, getattr(self, name), 1)
        for name in ("warmup_sequences", "seed", "weight_decay", "learning_rate", "decay_power"):
            _check_at_least(name, getattr(self, name), 0)
        if self.seed >= 2**31:
            raise UsageError(f"seed: expected less than 2^31, got {self.seed}")
        if self.sequences_per_step > MAX_SEQUENCES_PER_STEP:
            raise UsageError(f"sequences_per_step: expected at most 2^20, got {self.sequences_per_step}")
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise UsageError(f"peak_tflops: expected a number > 0, got {self.peak_tflops!r}")
        self._check_data()
        self._check_evaluation()

    def _check_data(self) -> None:
        if not self.data:
            raise UsageError("data: expected a manifest or a raw prefix, got none")
        for uri in self.data:
            if (self.mode == "packed") != is_manifest(uri):
                wanted = "a manifest (.json)" if self.mode == "packed" else "a raw prefix"
                raise UsageError(f"data: mode {self.mode} reads {wanted}, got {uri!r}")
        if len(self.data) > 1 and self.mode != "packed":
            raise UsageError(f"data: mode {self.mode} reads one raw prefix, got {len(self.data)}")

    def _check_evaluation(self) -> None:
        if self.eval_data is not None and is_manifest(self.eval_data):
            raise UsageError(f"eval_data: expected a prefix of raw shards, got the manifest {self.eval_data!r}")
        for name in ("eval_sequences", "eval_every", "target_mlm_accuracy"):
            if getattr(self, name) is not None and self.eval_data is None:
                raise UsageError(f"{name}: expected eval_data with it, got none")
        target = self.target_mlm_accuracy
        if target is not None and not 0 < target <= 1:
            raise UsageError(f"target_mlm_accuracy: expected 0 < accuracy <= 1, got {target!r}")


_UNUSED_FIELDS = ("directionality", "pooler_")
_COUNTS = (
    "steps",
    "sequences",
    "sequences_per_step",
    "micro_batches",
    "cache_bytes",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "eval_sequences",
    "eval_every",
)


def is_manifest(uri: str) -> bool:
    """Whether `uri` names a manifest; anything else is a prefix of raw shards."""
    return uri.endswith(".json")


def parse_json(content: bytes, source: str) -> dict[str, Any]:
    """The JSON object in `content`; raises UsageError naming `source` if it is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{source}: not a readable JSON file ({exc})") from exc
    if not isinstance(document, dict):
        raise UsageError(f"{source}: expected a JSON object, found a {type(document).__name__}")
    return document


def build(kind: type[Config], document: Mapping[str, Any], source: str) -> Config:
    """The dataclass `kind` of the fields in `document`; raises UsageError naming `source` for any that do not fit."""
    unknown = sorted(set(document) - {field.name for field in fields(kind)})
    if unknown:
        raise UsageError(f"{source}: unknown fields {', '.join(unknown)}")
    try:
        return kind(**document)
    except (TypeError, UsageError) as exc:
        raise UsageError(f"{source}: {exc}") from exc


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _check_at_least(name: str, value: float | None, low: int) -> None:
    if value is not None and not low <= value < math.inf:
        raise UsageError(f"{name}: expected a number >= {low}, got {value!r}")
