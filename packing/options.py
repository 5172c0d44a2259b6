"""The command line of `python -m packing`: commands, their options and defaults."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from packing.types import PARTITION_BYTES, SOLVERS

SIGNING_KEY = "STOWAGE_SIGNING_KEY"
"""The variable of the environment that may hold a private key."""

Command = Callable[[argparse.Namespace], dict[str, Any]]

_PLACE = "a local folder or s3://bucket/prefix"


def make_parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    """A command line on which each function is a command of its name, with its docstring as help."""
    parser = argparse.ArgumentParser(prog="python -m packing", description="Pack BERT pretraining data.")
    added = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in commands:
        sub = added.add_parser(command.__name__, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        sub.add_argument("--json", action="store_true", help="end standard output with one line of JSON")
        _OPTIONS[command.__name__](sub)
    return parser


def _add_scan(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", metavar="SOURCE", help=f"raw shards: {_PLACE}")
    _add_max_rejected(sub)
    _add_workers(sub)


def _add_solve(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--histogram", required=True, metavar="FILE", help='{"max_sequence_length": L, "counts": [...]}')
    sub.add_argument("--recipe", required=True, metavar="OUT", help="where to write the recipe")
    _add_parameters(sub)


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", metavar="SOURCE", help=f"raw shards: {_PLACE}")
    sub.add_argument("destination", metavar="DESTINATION", help=f"packed dataset: {_PLACE}")
    sub.add_argument("--max-sequence-length", type=int, default=512, metavar="L", help="slots a pack [%(default)s]")
    _add_parameters(sub)
    sub.add_argument(
        "--partition-bytes",
        type=int,
        default=PARTITION_BYTES,
        metavar="N",
        help="sequences of at most N bytes without padding are packed together; bounds memory [%(default)s]",
    )
    _add_max_rejected(sub)
    _add_workers(sub)
    sub.add_argument(
        "--dry-run",
        action="store_true",
        help="store nothing: read a sample, and predict packs, speed-up, size and duration",
    )
    sub.add_argument(
        "--spool-bytes",
        type=_count,
        metavar="N",
        help="keep N bytes of sequences in the temporary folder, to read S3 only once [half of its free space]",
    )
    sub.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        metavar="URI",
        help="MLflow server for the recipe [MLFLOW_TRACKING_URI; none: not recorded]",
    )
    sub.add_argument(
        "--signing-key",
        metavar="FILE",
        help=f"Ed25519 private key in PEM to sign the recipe with [what {SIGNING_KEY} holds; none: not signed]",
    )


def _add_verify(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("manifest", metavar="MANIFEST", help="a path or s3:// URI")
    sub.add_argument("--source", metavar="SOURCE", help="also look for every raw sequence below here")
    _add_public_key(sub)
    _add_workers(sub)


def _add_audit(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("manifest", metavar="MANIFEST", help="a path or s3:// URI")
    sub.add_argument("--source", required=True, metavar="SOURCE", help=f"raw shards: {_PLACE}")
    sub.add_argument(
        "--listed",
        metavar="FILE",
        help="JSON list of the raw shards' names as the refresh listed them; others came later and are only told "
        "[all below SOURCE]",
    )
    _add_public_key(sub)
    _add_workers(sub)


def _add_public_key(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--public-key", metavar="FILE", help="Ed25519 public key in PEM: check the recipe's signature too")


def _add_parameters(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--max-sequences-per-pack", type=int, default=3, metavar="K", help="[%(default)s]")
    sub.add_argument("--max-predictions-per-sequence", type=int, default=76, metavar="P", help="[%(default)s]")
    sub.add_argument("--solver", choices=SOLVERS, default="optimal", help="[%(default)s]")
    sub.add_argument("--seed", type=int, default=0, help="order of packs and sequences [%(default)s]")
    sub.add_argument("--time-limit", type=float, metavar="S", help="seconds for one solve; the best so far is kept")


def _add_max_rejected(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--max-rejected",
        type=_count,
        default=0,
        metavar="N",
        help="leave out and list up to N bad records [%(default)s]",
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {number}")
    return number


def _add_workers(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes [%(default)s]")


_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "scan": _add_scan,
    "solve": _add_solve,
    "run": _add_run,
    "verify": _add_verify,
    "audit": _add_audit,
}
