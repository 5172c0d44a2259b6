"""`config.json` in a model folder: what its checkpoints were trained as."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from packing.errors import InputError, ObjectNotFoundError, UsageError
from packing.ports import Storage
from training.config import ModelConfig, TrainingConfig, build, parse_json

CONFIG_FILE = "config.json"
FORMAT = 1


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
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"
        storage.write(f"{folder}/{CONFIG_FILE}", text.encode())

    @classmethod
    def find(cls, storage: Storage, folder: str) -> SavedConfig | None:
        """As `load`, None if there is no `config.json`."""
        try:
            return cls.load(storage, folder)
        except UsageError:
            return None

    @classmethod
    def load(cls, storage: Storage, folder: str) -> SavedConfig:
        """Raises UsageError if there is no `config.json` below `folder`, InputError for one that is none of ours."""
        uri = f"{folder}/{CONFIG_FILE}"
        try:
            content = storage.read(uri)
        except ObjectNotFoundError as exc:
            raise UsageError(f"{folder}: no {CONFIG_FILE} in it; give the --model-dir of a training run") from exc
        try:
            document = parse_json(content, uri)
            if document["format"] != FORMAT:
                raise InputError(f"{uri}: expected format {FORMAT}, found {document['format']!r}; use its own version")
            training = {**document["training"], "data": tuple(document["training"]["data"])}
            return cls(
                model=build(ModelConfig, document["model"], uri),
                training=build(TrainingConfig, training, uri),
                datasets=tuple(document["datasets"]),
                batch_size=int(document["batch_size"]),
                run_id=str(document["run_id"]),
            )
        except (KeyError, TypeError, ValueError, UsageError) as exc:
            raise InputError(f"{uri}: expected what a training run writes, found no usable field ({exc})") from exc

    def check_resumes(self, saved: SavedConfig) -> None:
        """Raise UsageError if going on from `saved` would mean another model, other data or another order of it."""
        before, now = saved.identity, self.identity
        for name, value in now.items():
            if before[name] != value:
                raise UsageError(
                    f"{name}: the checkpoint was trained with {before[name]}, got {value}; use another --model-dir"
                )

    @property
    def identity(self) -> dict[str, object]:
        """What must stay the same from start to end of a run, by name."""
        training = {name: getattr(self.training, name) for name in ("mode", "seed", "compute_dtype", "cache_bytes")}
        return {"model": self.model, "data": self.datasets, **training, "examples a step": self.batch_size}
