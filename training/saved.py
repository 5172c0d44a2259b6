"""`config.json` in a model folder: what its checkpoints were trained as."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from packing.errors import InputError, ObjectNotFoundError, UsageError
from packing.ports import Storage
from training.config import ModelConfig, TrainingConfig, build, parse_json

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class SavedConfig:
    """`config.json` in the model folder: all that evaluating or resuming needs beside the checkpoints.

    `datasets` are the recipes' ids, or the raw prefix; `batch_size` is the number of examples of a step.
    """

    model: ModelConfig
    training: TrainingConfig
    datasets: tuple[str, ...]
    batch_size: int
    run_id: str

    def save(self, storage: Storage, folder: str) -> None:
        """Write it, wholly or not at all."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"
        storage.write(f"{folder}/{CONFIG_FILE}", text.encode())

    @classmethod
    def load(cls, storage: Storage, folder: str) -> SavedConfig:
        """Raises UsageError if there is no `config.json` below `folder`, InputError for one that is none of ours."""
        uri = f"{folder}/{CONFIG_FILE}"
        try:
            document = parse_json(storage.read(uri), uri)
        except ObjectNotFoundError as exc:
            raise UsageError(f"{folder}: no {CONFIG_FILE} in it; give the --model-dir of a training run") from exc
        try:
            training = {**document["training"], "data": tuple(document["training"]["data"])}
            return cls(
                model=build(ModelConfig, document["model"], uri),
                training=build(TrainingConfig, training, uri),
                datasets=tuple(document["datasets"]),
                batch_size=int(document["batch_size"]),
                run_id=str(document["run_id"]),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise InputError(f"{uri}: expected what a training run writes, found no usable field ({exc})") from exc

    def check_resumes(self, saved: SavedConfig) -> None:
        """Raise UsageError if going on from `saved` would mean another model, other data or another order of it."""
        before, now = self._identity(saved), self._identity(self)
        for name, value in now.items():
            if before[name] != value:
                raise UsageError(
                    f"{name}: the checkpoint was trained with {before[name]}, got {value}; use another --model-dir"
                )

    @staticmethod
    def _identity(config: SavedConfig) -> dict[str, object]:
        training = {name: getattr(config.training, name) for name in ("mode", "seed", "compute_dtype", "cache_bytes")}
        return {"model": config.model, "data": config.datasets, **training, "examples a step": config.batch_size}
