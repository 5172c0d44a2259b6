"""`python -m training train | evaluate | ...`: the result on standard output, progress on standard error."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from packing.errors import StowageError
from packing.ports import Storage, Tracker
from packing.uris import absolute
from training.config import MODES, STRATEGIES
from training.devices import configure_tensorflow, this_worker
from training.folders import held, local_folder, user_cache, work_folder
from training.launchers.options import add_launch_options
from training.launchers.render import as_text, complete, render
from training.options import (
    add_cache_options,
    add_run_options,
    add_training_options,
    model_config,
    positive,
    training_config,
)

EXPORTS = ("saved-model", "hugging-face")


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
        result, status = options.command(options, open_storage(), open_tracker), 0
    except StowageError as exc:
        sys.stderr.write(f"error: {exc}\n")
        status = exc.exit_status
        result = {"error": str(exc), "exit_status": status, **exc.details}
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
    elif not status:
        sys.stdout.write(options.text(result) + "\n")
    return status


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
    add_run_options(parser, STRATEGIES)


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(commands, "evaluate", _evaluate, "evaluate the latest checkpoint")
    parser.add_argument("--data", required=True, metavar="MANIFEST_OR_RAW_PREFIX")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="the --model-dir of a training run")
    add_cache_options(parser)


def _add_compare(commands: Any) -> None:
    parser = _add_command(commands, "compare", _compare, "train packed and otherwise, side by side, saving nothing")
    parser.add_argument("--data", required=True, nargs=1, metavar="MANIFEST")
    parser.add_argument("--raw", required=True, metavar="RAW_PREFIX", help="the raw shards that the manifest packs")
    parser.add_argument("--against", choices=[mode for mode in MODES if mode != "packed"], default="padded")
    add_training_options(parser, [name for name in STRATEGIES if name != "multi-worker"])


def _add_export(commands: Any) -> None:
    parser = _add_command(commands, "export", _export, "write the latest checkpoint's model for other programs")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="the --model-dir of a training run")
    parser.add_argument("--output", required=True, metavar="DIR", help="new local folder")
    parser.add_argument("--format", choices=EXPORTS, default=EXPORTS[0])


def _add_render(commands: Any) -> None:
    parser = _add_command(commands, "render", _render, "print the manifests that run `train` on a cluster, as YAML")
    add_launch_options(parser)
    parser.add_argument("--model-dir", metavar="DIR", help="s3:// prefix (models/NAME beside the data's manifests/)")
    add_run_options(parser, [])
    # The server's address in this shell may have a password in it, and may not be the one that the pods can reach.
    parser.set_defaults(text=as_text, tracking_uri=None)


def _add_command(commands: Any, name: str, command: Callable[..., Any], description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(command=command, text=_lines)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of one operation (default: all CPUs)")
    return parser


def _train(options: argparse.Namespace, storage: Storage, open_tracker: Callable[..., Tracker]) -> dict[str, Any]:
    config, model = training_config(options), model_config(options)
    model_dir, worker = absolute(options.model_dir), this_worker(config.strategy)
    tracker = open_tracker(options.tracking_uri if worker.is_chief else None)
    configure_tensorflow(options.threads)
    from training.train import train

    with held(work_folder(model_dir, worker.index)) as work:
        cache = _cache(options, work.parent)
        return asdict(train(storage, tracker, model, config, model_dir, work=work, cache=cache, worker=worker))


def _evaluate(options: argparse.Namespace, storage: Storage, _open_tracker: object) -> dict[str, Any]:
    configure_tensorflow(options.threads)
    from training.evaluate import evaluate_checkpoint

    model_dir = absolute(options.checkpoint)
    cache = _cache(options, work_folder(model_dir, 0).parent)
    return asdict(evaluate_checkpoint(storage, absolute(options.data), model_dir, cache=cache))


def _compare(options: argparse.Namespace, storage: Storage, open_tracker: Callable[..., Tracker]) -> dict[str, Any]:
    """Its metrics outlive it if they cannot be sent; its copies of shards never do."""
    config, model, raw = training_config(options), model_config(options), absolute(options.raw)
    tracker = open_tracker(options.tracking_uri)
    configure_tensorflow(options.threads)
    from training.compare import compare

    place = user_cache("compare", repr(config), repr(model), raw, options.against)
    with held(place, temporary=True) as work, tempfile.TemporaryDirectory(prefix="stowage-") as folder:
        arguments = {"raw": raw, "against": options.against, "work": work, "cache": _cache(options, Path(folder))}
        return asdict(compare(storage, tracker, model, config, **arguments))


def _export(options: argparse.Namespace, storage: Storage, _open_tracker: object) -> dict[str, Any]:
    configure_tensorflow(options.threads)
    from training.export import export_checkpoint

    output = local_folder(options.output)
    export_checkpoint(storage, absolute(options.checkpoint), output, options.format)
    return {"format": options.format, "output": str(output)}


def _render(options: argparse.Namespace, _storage: object, _open_tracker: object) -> dict[str, Any]:
    options = complete(options)
    if not options.model.endswith(".json"):  # which lies in the image
        model_config(options)
    defaults = vars(build_parser().parse_args(["train", "--data", "", "--model-dir", ""]))
    own = {name: default for name, default in defaults.items() if name not in ("command", "text", "json")}
    return render(options, training_config(options), {**own, "tracking_uri": None})


def _cache(options: argparse.Namespace, home: Path) -> Any:
    from training.shards import Cache

    folder = local_folder(options.cache_dir) if options.cache_dir else home / "cache"
    return Cache(folder, options.cache_bytes)
