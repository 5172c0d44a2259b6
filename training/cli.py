"""`python -m training train | evaluate | speedup`: arguments in, one JSON object out, progress on standard error."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from packing.errors import StowageError, UsageError
from packing.ports import Storage, Tracker
from packing.uris import absolute
from training.config import MODELS, MODES, STRATEGIES, ModelConfig, TrainingConfig, load_model_config
from training.devices import configure_tensorflow


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `sys.argv`, open the real store and tracker, run; gives the exit status (DESIGN.md, *Commands*)."""
    options = build_parser().parse_args(arguments)
    from packing.adapters import open_storage, open_tracker

    return run(options, open_storage, open_tracker)


def run(
    options: argparse.Namespace, open_storage: Callable[[], Storage], open_tracker: Callable[[str | None], Tracker]
) -> int:
    """Run a parsed command with the given store and tracker."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("training").setLevel(logging.INFO)
    try:
        result = options.command(options, open_storage(), open_tracker)
    except StowageError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    text = json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items())
    sys.stdout.write(text + "\n")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it gives goes to `run`."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Pretrain and evaluate packed BERT.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_speedup(commands)
    return parser


def _add_train(commands: Any) -> None:
    parser = _add_command(commands, "train", _train, "train from a manifest, resuming what --model-dir holds")
    parser.add_argument("--data", required=True, metavar="MANIFEST", help="a manifest; a raw prefix in mode padded")
    parser.add_argument("--model-dir", required=True, metavar="DIR", help="local folder of config and checkpoints")
    parser.add_argument("--mode", choices=MODES, default="packed")
    parser.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        metavar="URI",
        help="MLflow server that records the run [MLFLOW_TRACKING_URI; none: not recorded]",
    )
    _add_model(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, metavar="N")
    length.add_argument("--sequences", type=int, metavar="N", help="train on N sequences (default: all, once)")
    defaults = TrainingConfig("manifest.json")
    for name, help_text in {
        "sequences_per_step": "average sequences a step; the packs follow from the packing factor",
        "learning_rate": "peak of the schedule",
        "warmup_sequences": "sequences of linear warm-up",
        "weight_decay": "LAMB's weight decay",
        "seed": "of weights, order and dropout",
        "log_every": "steps between progress lines",
        "checkpoint_every": "steps between checkpoints",
        "keep_checkpoints": "number of checkpoints to keep",
    }.items():
        default = getattr(defaults, name)
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(default), default=default, metavar="N", help=f"{help_text} ({default})")
    parser.add_argument("--dropout", type=float, metavar="P", help="dropout rate in place of the model's own")
    parser.add_argument("--strategy", choices=STRATEGIES, default="cpu", help="where to compute")
    parser.add_argument("--eval-data", metavar="RAW_PREFIX", help="raw held-out sequences to evaluate on at the end")
    parser.add_argument("--eval-sequences", type=int, metavar="N", help="evaluate on the first N only")


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(commands, "evaluate", _evaluate, "evaluate the latest checkpoint")
    parser.add_argument("--data", required=True, metavar="MANIFEST_OR_RAW_PREFIX")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="the --model-dir of a training run")


def _add_speedup(commands: Any) -> None:
    parser = _add_command(commands, "speedup", _speedup, "measure packed against padded steps, side by side")
    parser.add_argument("--data", required=True, metavar="MANIFEST")
    parser.add_argument("--raw", required=True, metavar="RAW_PREFIX", help="the raw shards that the manifest packs")
    parser.add_argument("--steps", type=int, default=6, metavar="N", help="timed steps of each mode (6)")
    parser.add_argument("--sequences-per-step", type=int, default=16, metavar="N", help="average sequences a step (16)")
    _add_model(parser)


def _add_command(commands: Any, name: str, command: Callable[..., Any], description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(command=command)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--cache-dir", metavar="DIR", help="local copies of shards (default: in the model folder)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one operation (default: all CPUs)")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", metavar="NAME", help=f"{', '.join(MODELS)} or a .json (tiny)")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="in place of the model's own")


def _train(options: argparse.Namespace, storage: Storage, open_tracker: Callable[..., Tracker]) -> dict[str, Any]:
    config = TrainingConfig(**{field.name: getattr(options, field.name) for field in fields(TrainingConfig)})
    config = replace(config, data=absolute(config.data), eval_data=config.eval_data and absolute(config.eval_data))
    model, model_dir = _model_config(options), _local_folder(options.model_dir)
    tracker = open_tracker(options.tracking_uri)
    configure_tensorflow(options.threads)
    from training.train import train

    return asdict(train(storage, tracker, model, config, model_dir, cache=_cache(options)))


def _evaluate(options: argparse.Namespace, storage: Storage, _open_tracker: object) -> dict[str, Any]:
    configure_tensorflow(options.threads)
    from training.evaluate import evaluate_checkpoint

    folder = _local_folder(options.checkpoint)
    return asdict(evaluate_checkpoint(storage, absolute(options.data), folder, cache=_cache(options)))


def _speedup(options: argparse.Namespace, storage: Storage, _open_tracker: object) -> dict[str, Any]:
    model = _model_config(options)
    for name in ("steps", "sequences_per_step"):
        if getattr(options, name) < 1:
            raise UsageError(f"{name}: expected a number >= 1, got {getattr(options, name)}")
    configure_tensorflow(options.threads)
    from training.speedup import measure_speedup

    with tempfile.TemporaryDirectory(prefix="stowage-") as folder:
        result = measure_speedup(
            storage,
            model,
            manifest=absolute(options.data),
            raw=absolute(options.raw),
            cache=_cache(options) or Path(folder),
            steps=options.steps,
            sequences_per_step=options.sequences_per_step,
        )
    return asdict(result)


def _model_config(options: argparse.Namespace) -> ModelConfig:
    config = load_model_config(options.model)
    if options.vocab_size is not None:
        config = replace(config, vocab_size=options.vocab_size)
    rate = getattr(options, "dropout", None)
    if rate is not None:
        config = replace(config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    return config


def _local_folder(name: str) -> Path:
    if "://" in name:
        raise UsageError(f"{name}: expected a local folder")
    return Path(name).absolute()


def _cache(options: argparse.Namespace) -> Path | None:
    return _local_folder(options.cache_dir) if options.cache_dir else None
