"""What `python -m training render` prints: the manifests of a cluster that runs `train` with the same options."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from typing import Any

from packing.errors import UsageError
from packing.uris import absolute
from training.config import TrainingConfig
from training.launchers.options import LAUNCHERS, launch_config

logger = logging.getLogger(__name__)


def complete(options: argparse.Namespace) -> argparse.Namespace:
    """`options` with what the launcher decides: the strategy, and a model folder where none was given."""
    workers_meet = options.workers > 1
    strategy = LAUNCHERS[options.launcher].strategies[workers_meet]
    model_dir = options.model_dir or _model_dir_beside(options.data[0], options.name)
    return argparse.Namespace(**{**vars(options), "strategy": strategy, "model_dir": model_dir})


def render(options: argparse.Namespace, training: TrainingConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A List of manifests. `training` is what `options` say, `defaults` are those of `train` by name."""
    for place in (*training.data, training.eval_data, training.init_checkpoint, absolute(options.model_dir)):
        if place and "://" not in place:
            logger.warning("%s: a path in the image; pods share nothing but the store (s3://...)", place)
    command = ["python", "-m", "training", "train", "--json", *_train_arguments(options, defaults)]
    manifests = LAUNCHERS[options.launcher].manifests(launch_config(options), command)
    return {"apiVersion": "v1", "kind": "List", "items": manifests}


def as_text(rendered: Mapping[str, Any]) -> str:
    """One YAML document for each manifest."""
    from training.launchers.documents import as_yaml

    return as_yaml(rendered["items"]).rstrip("\n")


def _model_dir_beside(manifest: str, name: str) -> str:
    dataset, found, _ = manifest.rpartition("/manifests/")
    if not found:
        raise UsageError("--model-dir: expected one with data that is no DATASET/manifests/RECIPE.json, got none")
    return f"{dataset}/models/{name}"


def _train_arguments(options: argparse.Namespace, defaults: Mapping[str, Any]) -> list[str]:
    """The options of `train` that are not its defaults, to be parsed again where it runs."""
    arguments = []
    for name in sorted(defaults):
        flag, value = "--" + name.replace("_", "-"), getattr(options, name)
        if value not in (None, defaults[name]):
            arguments += [flag, *value] if isinstance(value, list) else [flag if value is True else f"{flag}={value}"]
    return arguments
