"""The options of commands that train, and what they are once they are parsed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from packing.uris import absolute
from training.config import COMPUTE_DTYPES, MODELS, MODES, ModelConfig, TrainingConfig, load_model_config

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
_SAVING = ("checkpoint_every", "keep_checkpoints")


def add_run_options(parser: argparse.ArgumentParser, strategies: Sequence[str]) -> None:
    """Those of a training run but for its model folder."""
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="MANIFEST",
        help="a manifest, or several of the same raw data packed with other seeds, which epochs take in turn; "
        "a raw prefix in the modes padded and bucketed",
    )
    parser.add_argument("--mode", choices=MODES, default="packed")
    add_training_options(parser, strategies)
    _add_numbers(parser, _SAVING)
    parser.add_argument("--peak-tflops", type=float, metavar="N", help="of one device, for MFU (default: if known)")
    parser.add_argument("--eval-data", metavar="RAW_PREFIX", help="raw held-out sequences to evaluate on at the end")
    parser.add_argument("--eval-sequences", type=int, metavar="N", help="evaluate on the first N only")
    parser.add_argument("--eval-every", type=int, metavar="N", help="evaluate whenever N more sequences were seen, too")
    parser.add_argument("--target-mlm-accuracy", type=float, metavar="A", help="end once an evaluation reaches it")


def add_training_options(parser: argparse.ArgumentParser, strategies: Sequence[str]) -> None:
    """Those of every command that trains; no --strategy if it has no choice."""
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
    _add_numbers(parser, [name for name in _NUMBERS if name not in _SAVING])
    parser.add_argument("--init-checkpoint", metavar="DIR", help="start from a BERT checkpoint, by name")
    if strategies:
        parser.add_argument("--strategy", choices=strategies, default="cpu", help="where to compute (cpu)")
    parser.add_argument("--compute-dtype", choices=COMPUTE_DTYPES, default="float32", help="of products (float32)")
    parser.add_argument("--xla", action="store_true", help="compile forward and backward pass with XLA")
    parser.add_argument("--deterministic", action="store_true", help="same bits on every run, at a price in speed")
    add_cache_options(parser)


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Those of every command that reads shards."""
    parser.add_argument("--cache-dir", metavar="DIR", help="local copies of shards (default: in the model folder)")
    parser.add_argument("--cache-bytes", type=positive, metavar="N", help="bound of the local copies (default: none)")


def _add_numbers(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    defaults = TrainingConfig(("manifest.json",))
    for name in names:
        default = getattr(defaults, name)
        flag, text = "--" + name.replace("_", "-"), f"{_NUMBERS[name]} ({default})"
        parser.add_argument(flag, type=type(default), default=default, metavar="N", help=text)


def training_config(options: argparse.Namespace) -> TrainingConfig:
    """The config of the options that the command has; the others keep their defaults."""
    given = {field.name: getattr(options, field.name) for field in fields(TrainingConfig) if field.name in options}
    config = TrainingConfig(**{**given, "data": tuple(options.data)})
    return replace(
        config,
        data=tuple(map(absolute, config.data)),
        eval_data=config.eval_data and absolute(config.eval_data),
        init_checkpoint=config.init_checkpoint and absolute(config.init_checkpoint),
    )


def model_config(options: argparse.Namespace) -> ModelConfig:
    """The shape of --model, with what other options put in place of its own."""
    config = load_model_config(options.model)
    if options.vocab_size is not None:
        config = replace(config, vocab_size=options.vocab_size)
    if options.dropout is not None:
        rate = options.dropout
        config = replace(config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    return config


def positive(text: str) -> int:
    """An integer from 1 on, as a type of options."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number
