"""`python -m training train | evaluate | ...`: the result on standard output, progress on standard error."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from packing.errors import StowageError, UsageError
from packing.jsonio import digest
from packing.ports import Storage, Tracker
from packing.uris import absolute
from training.config import (
    COMPUTE_DTYPES,
    MODELS,
    MODES,
    STRATEGIES,
    ModelConfig,
    TrainingConfig,
    load_model_config,
)
from training.devices import configure_tensorflow, this_worker
from training.launchers.options import add_launch_options
from training.launchers.render import as_text, complete, render

EXPORTS = ("saved-model", "hugging-face")

_NUMBERS = {
    "sequences_per_step": "average sequences a step; the packs follow from the packing factor",
    "micro_batches": "parts in which each device takes its share of a step, to save memory",
    "learning_rate": "peak of the schedule",
    "warmup_sequences": "sequences of linear warm-up",
    "decay_power": "power of the polynomial decay after it",
    "weight_decay": "LAMB's weight decay",
    "seed": "of weights, order and dropout",
    "log_every": "steps between progress lines",
    "checkpoint_every": "steps between checkpoints",
    "keep_checkpoints": "number of checkpoints to keep",
}


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
    sys.stdout.write((json.dumps(result) if options.json else options.text(result)) + "\n")
    return 0


def _lines(result: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in result.items())


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it gives goes to `run`."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Pretrain and evaluate packed BERT.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_compare(commands)
    _add_export(commands)
    _add_render(commands)
    return parser


def _add_train(commands: Any) -> None:
    parser = _add_command(commands, "train", _train, "train from a manifest, resuming what --model-dir holds")
    parser.add_argument("--model-dir", required=True, metavar="DIR", help="folder or s3:// prefix of the checkpoints")
    _add_run(parser, STRATEGIES)


def _add_run(parser: argparse.ArgumentParser, strategies: Sequence[str]) -> None:
    """The options of a training run but for its model folder."""
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="MANIFEST",
        help="a manifest, or several of the same raw data packed with other seeds, which epochs take in turn; "
        "a raw prefix in the modes padded and bucketed",
    )
    parser.add_argument("--mode", choices=MODES, default="packed")
    _add_training(parser, strategies)
    parser.add_argument("--eval-data", metavar="RAW_PREFIX", help="raw held-out sequences to evaluate on at the end")
    parser.add_argument("--eval-sequences", type=int, metavar="N", help="evaluate on the first N only")
    parser.add_argument("--eval-every", type=int, metavar="N", help="evaluate whenever N more sequences were seen, too")
    parser.add_argument("--target-mlm-accuracy", type=float, metavar="A", help="end once an evaluation reaches it")


def _add_compare(commands: Any) -> None:
    parser = _add_command(commands, "compare", _compare, "train packed and otherwise, side by side, saving nothing")
    parser.add_argument("--data", required=True, nargs=1, metavar="MANIFEST")
    parser.add_argument("--raw", required=True, metavar="RAW_PREFIX", help="the raw shards that the manifest packs")
    parser.add_argument("--against", choices=[mode for mode in MODES if mode != "packed"], default="padded")
    _add_training(parser, [name for name in STRATEGIES if name != "multi-worker"])


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(commands, "evaluate", _evaluate, "evaluate the latest checkpoint")
    parser.add_argument("--data", required=True, metavar="MANIFEST_OR_RAW_PREFIX")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="the --model-dir of a training run")


def _add_export(commands: Any) -> None:
    parser = _add_command(commands, "export", _export, "write the latest checkpoint's model for other programs")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="the --model-dir of a training run")
    parser.add_argument("--output", required=True, metavar="DIR", help="new local folder")
    parser.add_argument("--format", choices=EXPORTS, default=EXPORTS[0])


def _add_render(commands: Any) -> None:
    parser = _add_command(commands, "render", _render, "print the manifests that run `train` on a cluster, as YAML")
    add_launch_options(parser)
    parser.add_argument("--model-dir", metavar="DIR", help="s3:// prefix (models/NAME beside the data's manifests/)")
    _add_run(parser, [])
    # The server's address in this shell may have a password in it, and may not be the one that the pods can reach.
    parser.set_defaults(text=as_text, tracking_uri=None)


def _add_command(commands: Any, name: str, command: Callable[..., Any], description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(command=command, text=_lines)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one operation (default: all CPUs)")
    parser.add_argument("--cache-dir", metavar="DIR", help="local copies of shards (default: in the model folder)")
    return parser


def _add_training(parser: argparse.ArgumentParser, strategies: Sequence[str]) -> None:
    """The options of all commands that train."""
    parser.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        metavar="URI",
        help="MLflow server that records the run [MLFLOW_TRACKING_URI; none: not recorded]",
    )
    parser.add_argument("--model", default="tiny", metavar="NAME", help=f"{', '.join(MODELS)} or a .json (tiny)")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="in place of the model's own")
    parser.add_argument("--dropout", type=float, metavar="P", help="dropout rate in place of the model's own")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, metavar="N")
    length.add_argument("--sequences", type=int, metavar="N", help="train on N sequences (default: all, once)")
    defaults = TrainingConfig(("manifest.json",))
    for name, help_text in _NUMBERS.items():
        default = getattr(defaults, name)
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(default), default=default, metavar="N", help=f"{help_text} ({default})")
    parser.add_argument("--init-checkpoint", metavar="DIR", help="start from a BERT checkpoint, by name")
    if strategies:
        parser.add_argument("--strategy", choices=strategies, default="cpu", help="where to compute (cpu)")
    parser.add_argument("--compute-dtype", choices=COMPUTE_DTYPES, default="float32", help="of products (float32)")
    parser.add_argument("--xla", action="store_true", help="compile forward and backward pass with XLA")
    parser.add_argument("--deterministic", action="store_true", help="same bits on every run, at a price in speed")
    parser.add_argument("--cache-bytes", type=int, metavar="N", help="bound of the local copies (default: none)")
    parser.add_argument("--peak-tflops", type=float, metavar="N", help="of one device, for MFU (default: if known)")


def _train(options: argparse.Namespace, storage: Storage, open_tracker: Callable[..., Tracker]) -> dict[str, Any]:
    config, model = _training_config(options), _model_config(options)
    model_dir, worker = absolute(options.model_dir), this_worker(config.strategy)
    tracker = open_tracker(options.tracking_uri if worker.is_chief else None)
    configure_tensorflow(options.threads)
    from training.train import train

    work = _work_folder(model_dir, worker.index)
    cache = _cache(options, model_dir, config.cache_bytes)
    return asdict(train(storage, tracker, model, config, model_dir, work=work, cache=cache, worker=worker))


def _compare(options: argparse.Namespace, storage: Storage, open_tracker: Callable[..., Tracker]) -> dict[str, Any]:
    config, model = _training_config(options), _model_config(options)
    tracker = open_tracker(options.tracking_uri)
    configure_tensorflow(options.threads)
    from training.compare import compare

    with _temporary_folder() as folder:
        cache = _cache(options, folder, config.cache_bytes)
        arguments = {"raw": absolute(options.raw), "against": options.against, "work": Path(folder), "cache": cache}
        return asdict(compare(storage, tracker, model, config, **arguments))


def _evaluate(options: argparse.Namespace, storage: Storage, _open_tracker: object) -> dict[str, Any]:
    configure_tensorflow(options.threads)
    from training.evaluate import evaluate_checkpoint

    model_dir = absolute(options.checkpoint)
    cache = _cache(options, model_dir, None)
    return asdict(evaluate_checkpoint(storage, absolute(options.data), model_dir, cache=cache))


def _export(options: argparse.Namespace, storage: Storage, _open_tracker: object) -> dict[str, Any]:
    configure_tensorflow(options.threads)
    from training.export import export_checkpoint

    output = _local_folder(options.output)
    export_checkpoint(storage, absolute(options.checkpoint), output, options.format)
    return {"format": options.format, "output": str(output)}


def _render(options: argparse.Namespace, _storage: object, _open_tracker: object) -> dict[str, Any]:
    options = complete(options)
    if not options.model.endswith(".json"):  # which lies in the image
        _model_config(options)
    defaults = vars(build_parser().parse_args(["train", "--data", "", "--model-dir", ""]))
    own = {name: default for name, default in defaults.items() if name not in ("command", "text", "json")}
    return render(options, _training_config(options), {**own, "tracking_uri": None})


def _training_config(options: argparse.Namespace) -> TrainingConfig:
    """The config of the options that the command has; the others keep their defaults."""
    given = {field.name: getattr(options, field.name) for field in fields(TrainingConfig) if field.name in options}
    config = TrainingConfig(**{**given, "data": tuple(options.data)})
    return replace(
        config,
        data=tuple(map(absolute, config.data)),
        eval_data=config.eval_data and absolute(config.eval_data),
        init_checkpoint=config.init_checkpoint and absolute(config.init_checkpoint),
    )


def _model_config(options: argparse.Namespace) -> ModelConfig:
    config = load_model_config(options.model)
    if options.vocab_size is not None:
        config = replace(config, vocab_size=options.vocab_size)
    if options.dropout is not None:
        rate = options.dropout
        config = replace(config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    return config


def _work_folder(model_dir: str, worker: int) -> Path:
    """Of one process of a run: in a local model folder, or in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stowage" / digest([model_dir])[:16]
    folder = (home if "://" in model_dir else Path(model_dir)) / f"worker-{worker}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"{folder}: cannot be made ({exc.strerror}); give another --model-dir") from exc
    return folder


def _cache(options: argparse.Namespace, model_dir: str, limit: int | None) -> Any:
    from training.shards import Cache

    if options.cache_dir:
        return Cache(_local_folder(options.cache_dir), limit)
    return Cache(_work_folder(model_dir, 0).parent / "cache", limit)


def _local_folder(name: str) -> Path:
    folder = absolute(name)
    if "://" in folder:
        raise UsageError(f"{name}: expected a local folder")
    return Path(folder)


@contextmanager
def _temporary_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="stowage-") as folder:
        yield folder
