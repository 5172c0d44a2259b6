"""`python -m packing`: the composition root of the stages for a shell.

Results go to standard output, progress and errors to standard error; with `--json` the last line of standard output is
one JSON object. The exit status is the error's (see `packing.errors`).
"""

from __future__ import annotations

import argparse
import getpass
import io
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packing.adapters import open_storage, open_tracker
from packing.audit import audit_dataset
from packing.documents import read_document
from packing.errors import InputError, RecordError, StowageError, UsageError
from packing.listing import list_raw_shards
from packing.options import SIGNING_KEY, make_parser
from packing.outcome import REFRESHED, RETURNED, UNCHANGED
from packing.parallel import LOOKUPS, process_pool, serial, threads, tracked
from packing.pipeline import Refresh, Stages, refresh
from packing.ports import Storage
from packing.predict import predict, prediction_rows
from packing.progress import stage_progress
from packing.recipe import recipe_bytes
from packing.report import TRIGGERED_BY, RefreshRecord, summary_rows
from packing.scan import read_segments
from packing.signing import PublicKey, SigningKey, check_signature
from packing.solve import histogram_of, solve_histogram
from packing.spool import Spool
from packing.types import PARTITION_BYTES, Histogram, Parameters, Recipe
from packing.uris import absolute
from packing.verify import Check, require, verify_dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of objects may hold bytes that are no text
    options = make_parser((scan, solve, run, verify, audit)).parse_args(arguments)
    status = 0
    try:
        result = options.command(options)
    except StowageError as exc:
        _say(f"error: {exc}")
        status = exc.exit_status
        result = {"error": str(exc), "exit_status": status, **exc.details}
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
    return status


def scan(options: argparse.Namespace) -> dict[str, Any]:
    """Read and validate every raw shard; keep nothing."""
    storage, source = open_storage(), absolute(options.source)
    shards = list_raw_shards(storage, source)
    read = partial(read_segments, max_rejected=options.max_rejected)
    with _stages(storage, options.workers) as stages:
        found = tracked(stages.progress, "scan", stages.work(read, shards), len(shards))
    segments = [segment for own, _ in found for segment in own]
    rejected = [rejection for _, own in found for rejection in own]
    if len(rejected) > options.max_rejected:
        first = rejected[options.max_rejected]
        raise RecordError(
            f"{source}/{first.shard}",
            record=first.record,
            offset=first.offset,
            expected=first.expected,
            found=f"{first.found}, in one of {len(rejected)} bad records",
        )
    sizes = [size for segment in segments for size in segment.lengths]
    longest = max((length for length, _, _ in sizes), default=0)
    histogram = histogram_of(segments, max(longest, 1))
    result = {
        "shards": len(shards),
        "bytes": sum(shard.size for shard in shards),
        "sequences": histogram.sequences,
        "rejected": len(rejected),
        "tokens": histogram.tokens,
        "longest": longest,
        "mean_length": histogram.tokens / max(histogram.sequences, 1),
        "most_masked": max((masked for _, _, masked in sizes), default=0),
        "max_sequence_length": histogram.max_sequence_length,
        "counts": list(histogram.counts),
    }
    _table(
        [
            (name.replace("_", " "), f"{value:,.6g}" if isinstance(value, float) else f"{value:,}")
            for name, value in result.items()
            if name not in ("counts", "max_sequence_length")
        ]
    )
    return result


def solve(options: argparse.Namespace) -> dict[str, Any]:
    """Solve a histogram from a file; the recipe then names no data."""
    storage = open_storage()
    histogram = _read_histogram(storage, absolute(options.histogram))
    parameters = _parameters(options, max_sequence_length=histogram.max_sequence_length)
    recipe = solve_histogram(parameters, histogram, options.time_limit)
    storage.write(absolute(options.recipe), recipe_bytes(recipe))
    _table(summary_rows(recipe))
    return _result(recipe)


def _read_histogram(storage: Storage, uri: str) -> Histogram:
    document = read_document(storage, uri, "histogram")
    try:
        histogram = Histogram(tuple(document["counts"]))
        expected = document["max_sequence_length"]
    except (KeyError, TypeError, UsageError) as exc:
        raise InputError(
            f'{uri}: expected {{"max_sequence_length": L, "counts": [L counts >= 0]}}, found something else ({exc})'
        ) from exc
    if histogram.max_sequence_length != expected:
        raise InputError(f"{uri}: expected {expected} counts, found {histogram.max_sequence_length}")
    if not histogram.sequences:
        raise InputError(f"{uri}: expected at least one sequence, found none")
    return histogram


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make or refresh a packed dataset."""
    source, destination = absolute(options.source), absolute(options.destination)
    parameters = _parameters(options, max_sequence_length=options.max_sequence_length)
    storage = open_storage()
    if options.dry_run:
        return _dry_run(options, storage, source, destination, parameters)
    key = _signing_key(options.signing_key)
    record = None
    if options.tracking_uri:
        tags = {TRIGGERED_BY: _shell_user()}
        record = RefreshRecord(storage, open_tracker(options.tracking_uri), source, destination, tags)
    with _spool(source, options.spool_bytes) as spool, _stages(storage, options.workers, spool) as stages:
        outcome = refresh(
            storage,
            stages,
            source,
            destination,
            parameters,
            max_rejected=options.max_rejected,
            time_limit=options.time_limit,
            on_recipe=record.add_recipe if record else None,
            on_manifest=record.add_manifest if record else None,
            key=key,
        )
    if record:
        record.mark_committed(outcome.recipe, returned=outcome.returned)
    _table([*summary_rows(outcome.recipe), *_refresh_rows(outcome)])
    return {
        "manifest": outcome.manifest_uri,
        **_result(outcome.recipe),
        "unchanged": outcome.unchanged,
        "returned": outcome.returned,
        "shards_scanned": outcome.shards_scanned,
        "partitions_written": outcome.partitions_written,
    }


def _shell_user() -> str:
    """Who runs this, and where; a container's user may have no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"shell: {user}@{socket.gethostname()}"


def _dry_run(
    options: argparse.Namespace, storage: Storage, source: str, destination: str, parameters: Parameters
) -> dict[str, Any]:
    prediction = predict(
        storage,
        threads(storage, LOOKUPS),
        source,
        destination,
        parameters,
        workers=options.workers,
        solvers=options.workers,
        max_rejected=options.max_rejected,
        time_limit=options.time_limit,
    )
    _table(prediction_rows(prediction))
    return asdict(prediction)


def _refresh_rows(outcome: Refresh) -> list[tuple[str, str]]:
    shards, partitions = len(outcome.recipe.shards), len(outcome.recipe.partitions)
    unchanged = RETURNED if outcome.returned else UNCHANGED
    return [
        ("outcome", unchanged if outcome.unchanged else REFRESHED),
        ("scanned", f"{outcome.shards_scanned} of {shards} raw shards, {shards - outcome.shards_scanned} reused"),
        ("written", f"{outcome.partitions_written} of {partitions} partitions, the others reused"),
        ("manifest", outcome.manifest_uri),
    ]


def verify(options: argparse.Namespace) -> dict[str, Any]:
    """Check a packed dataset, and with --source that every raw sequence is in it exactly once."""
    storage, signed = open_storage(), _signature_check(options)
    source = absolute(options.source) if options.source else None
    with _stages(storage, options.workers) as stages:
        checks = verify_dataset(storage, stages.work, absolute(options.manifest), source)
    return _checked([*checks, *signed(storage)], "verified")


def audit(options: argparse.Namespace) -> dict[str, Any]:
    """Derive a packed dataset again from its raw data, and say line by line what holds."""
    storage, signed = open_storage(), _signature_check(options)
    listed = _listed(options.listed) if options.listed else None
    with _stages(storage, options.workers) as stages:
        checks = audit_dataset(storage, stages.work, absolute(options.manifest), absolute(options.source), listed)
    return _checked([*checks, *signed(storage)], "audited")


def _signing_key(file: str | None) -> SigningKey | None:
    """The key in the file or else in the environment; none: nothing is signed."""
    if file:
        return SigningKey.from_pem(_read_file(file), file)
    text = os.environ.get(SIGNING_KEY)
    return SigningKey.from_pem(text.encode(), SIGNING_KEY) if text else None


def _signature_check(options: argparse.Namespace) -> Callable[[Storage], list[Check]]:
    """The check that a public key makes possible; the key is read, and refused, before any work."""
    if not options.public_key:
        return lambda _: []
    public = PublicKey.from_pem(_read_file(options.public_key), options.public_key)
    return lambda storage: [check_signature(storage, absolute(options.manifest), public)]


def _listed(file: str) -> list[str]:
    kind = "a JSON list of raw shards' names"
    try:
        names = json.loads(_read_file(file, kind))
    except ValueError as exc:
        raise UsageError(f"{file}: expected {kind}, found no JSON ({exc})") from exc
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{file}: expected {kind}, found something else")
    return names


def _read_file(name: str, content: str = "a key in PEM") -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as exc:
        raise UsageError(f"{name}: cannot be read ({exc.strerror}); name a file with {content}") from exc


def _checked(checks: Sequence[Check], word: str) -> dict[str, Any]:
    for check in checks:
        sys.stdout.write(f"{'ok    ' if check.passed else 'FAILED'}  {check.name}: {check.detail}\n")
    require(checks, word)
    return {word: True, "checks": [asdict(check) for check in checks]}


def _result(recipe: Recipe) -> dict[str, Any]:
    names = ("sequences", "rejected", "packs", "lower_bound", "gap", "packing_efficiency", "packing_factor")
    return {"recipe_id": recipe.recipe_id, **{name: recipe.statistics[name] for name in names}}


def _parameters(options: argparse.Namespace, *, max_sequence_length: int) -> Parameters:
    return Parameters(
        max_sequence_length=max_sequence_length,
        max_sequences_per_pack=options.max_sequences_per_pack,
        max_predictions_per_sequence=options.max_predictions_per_sequence,
        solver=options.solver,
        seed=options.seed,
        partition_bytes=getattr(options, "partition_bytes", PARTITION_BYTES),
    )


@contextmanager
def _stages(storage: Storage, workers: int, spool: Spool | None = None) -> Iterator[Stages]:
    """Stages in `workers` processes, or in this one, with progress on standard error."""
    if workers < 1:
        raise UsageError(f"workers: expected an integer >= 1, got {workers}")
    with ExitStack() as stack:
        work = stack.enter_context(process_pool(workers, open_storage)) if workers > 1 else serial(storage)
        yield Stages(threads(storage, LOOKUPS), work, spool, stack.enter_context(stage_progress()))


@contextmanager
def _spool(source: str, capacity: int | None) -> Iterator[Spool | None]:
    """A spool in the temporary folder, of half of what is free there unless told; none for files of this machine."""
    if not source.startswith("s3://"):
        yield None
        return
    with TemporaryDirectory(prefix="stowage-") as folder:
        yield Spool(folder, shutil.disk_usage(folder).free // 2 if capacity is None else capacity)


def _table(rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        sys.stdout.write(f"{name:{width}}  {value}\n")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
