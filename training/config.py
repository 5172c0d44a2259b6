"""What a user decides about a training run, checked before any work; imports no TensorFlow.

Runtime values (steps done, sequences seen) live in `training.train.Progress`, never here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from packing.errors import UsageError

CONFIG_FILE = "config.json"
MODES = ("packed", "padded")
STRATEGIES = ("cpu", "mirrored")

_Config = TypeVar("_Config", "ModelConfig", "TrainingConfig")


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
            if field.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"model: {field.name}: expected an integer >= 1, got {value!r}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"model: {name}: expected 0 <= p < 1, got {getattr(self, name)!r}")
        if self.initializer_range <= 0:
            raise UsageError(f"model: initializer_range: expected a number > 0, got {self.initializer_range!r}")
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
    """A published size by name, or the ModelConfig in a `bert_config.json` (unknown fields are refused)."""
    if name in MODELS:
        return MODELS[name]
    if not name.endswith(".json"):
        raise UsageError(f"model: expected {', '.join(MODELS)} or a path to a .json file, got {name!r}")
    document = _read_json(Path(name))
    activation = document.pop("hidden_act", "gelu")
    if activation != "gelu":
        raise UsageError(f"{name}: hidden_act: expected 'gelu', got {activation!r}")
    return _build(ModelConfig, document, name)


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. Exactly one of `steps` and `sequences` may be given; with neither, one pass over the data.

    `data` is a manifest's URI in mode "packed" and a prefix of raw shards in mode "padded". Batches, schedules and
    stopping count sequences, never packs, so that both modes mean the same.
    """

    data: str
    mode: str = "packed"
    steps: int | None = None
    sequences: int | None = None
    sequences_per_step: int = 32
    learning_rate: float = 4.25e-4
    warmup_sequences: int = 0
    weight_decay: float = 0.01
    seed: int = 0
    strategy: str = "cpu"
    log_every: int = 10
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    eval_data: str | None = None
    eval_sequences: int | None = None

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, MODES)
        _check_choice("strategy", self.strategy, STRATEGIES)
        if self.steps is not None and self.sequences is not None:
            raise UsageError("steps and sequences: expected at most one of them, got both")
        if (self.mode == "packed") != is_manifest(self.data):
            raise UsageError(
                f"data: mode {self.mode} reads {'a manifest (.json)' if self.mode == 'packed' else 'a raw prefix'}, "
                f"got {self.data!r}"
            )
        if self.eval_data is not None and is_manifest(self.eval_data):
            raise UsageError(f"eval_data: expected a prefix of raw shards, got the manifest {self.eval_data!r}")
        for name in ("steps", "sequences", "sequences_per_step", "log_every", "checkpoint_every", "keep_checkpoints"):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("warmup_sequences", "seed", "weight_decay", "learning_rate"):
            _check_at_least(name, getattr(self, name), 0)
        _check_at_least("eval_sequences", self.eval_sequences, 1)
        if self.seed >= 2**31:
            raise UsageError(f"seed: expected less than 2^31, got {self.seed}")


def is_manifest(uri: str) -> bool:
    """Whether `uri` names a manifest; anything else is a prefix of raw shards."""
    return uri.endswith(".json")


@dataclass(frozen=True)
class SavedConfig:
    """`config.json` in the model folder: all that evaluating or resuming needs beside the checkpoints."""

    model: ModelConfig
    training: TrainingConfig
    recipe_id: str | None
    run_id: str

    def save(self, folder: Path) -> None:
        """Write it, wholly or not at all."""
        temporary = folder / f"{CONFIG_FILE}.tmp"
        temporary.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(folder / CONFIG_FILE)

    @classmethod
    def load(cls, folder: Path) -> SavedConfig:
        """Raises UsageError if `folder` holds no readable `config.json`."""
        path = folder / CONFIG_FILE
        document = _read_json(path)
        try:
            return cls(
                model=_build(ModelConfig, document["model"], str(path)),
                training=_build(TrainingConfig, document["training"], str(path)),
                recipe_id=document["recipe_id"],
                run_id=document["run_id"],
            )
        except KeyError as exc:
            raise UsageError(
                f"{path}: expected the field {exc}, found none; it was not written by a training run"
            ) from exc


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise UsageError(f"{path}: not a readable JSON file ({exc})") from exc
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected a JSON object, found a {type(document).__name__}")
    return document


def _build(kind: type[_Config], document: Mapping[str, Any], source: str) -> _Config:
    unknown = sorted(set(document) - {field.name for field in fields(kind)})
    if unknown:
        raise UsageError(f"{source}: unknown fields {', '.join(unknown)}")
    try:
        return kind(**document)
    except TypeError as exc:
        raise UsageError(f"{source}: {exc}") from exc


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _check_at_least(name: str, value: float | None, low: int) -> None:
    if value is not None and not value >= low:
        raise UsageError(f"{name}: expected a number >= {low}, got {value!r}")
