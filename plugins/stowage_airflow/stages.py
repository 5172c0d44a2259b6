"""The pipeline's stages as bodies of tasks.

A task gets URIs, names and digests, never data; what it makes, it leaves in the store.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from packing.errors import SecretError, StowageError, TrackingError, UsageError
from stowage_airflow.connections import SIGNING_CONNECTION, open_storage, open_tracker, signing_key, task_errors
from stowage_airflow.groups import balanced_groups

if TYPE_CHECKING:
    from packing.ports import InputDataset, Storage
    from packing.signing import SigningKey
    from packing.types import Parameters, RawShard, Recipe, ShardSummary
    from packing.verify import Check

log = logging.getLogger(__name__)

Group = dict[str, Any]

PARAMETERS = (
    "max_sequence_length",
    "max_sequences_per_pack",
    "max_predictions_per_sequence",
    "solver",
    "seed",
    "partition_bytes",
)
REPORTED = ("sequences", "packs", "gap", "packing_efficiency", "packing_factor")
"""What of a recipe's statistics the commit returns, and the asset's event carries."""

RECORD_PAUSES = (3, 6, 12, 24, 48)
"""Seconds between the attempts to record an audit, those of the DAG's retries."""


def check_request(params: Mapping[str, Any]) -> None:
    """Refuse a request whose places or parameters cannot work."""
    from packing.pipeline import check_locations
    from packing.uris import absolute

    for name in ("source", "destination"):
        if not params[name]:
            raise UsageError(
                f"{name}: expected s3://bucket/prefix, got nothing; fill it in or set STOWAGE_{name.upper()}"
            )
    check_locations(absolute(params["source"]), absolute(params["destination"]))
    parameters_of(params)


def parameters_of(params: Mapping[str, Any]) -> Parameters:
    """The packing parameters of a DAG run."""
    from packing.types import Parameters

    return Parameters(**{name: params[name] for name in PARAMETERS})


def key_to_sign_with(*, required: bool) -> SigningKey | None:
    """The key of `stowage_signing`, if Airflow finds one; raises SecretError if there is none and one is required.

    To Airflow a secrets backend that is away looks as one that has no such connection, and it may come back.
    """
    key = signing_key()
    if required and not key:
        raise SecretError(
            f"connection {SIGNING_CONNECTION}: expected a key to sign with, as STOWAGE_REQUIRE_SIGNATURE says, but "
            "Airflow finds no such connection; see that the secrets backend answers, or set the connection, then clear "
            "this task: packed shards that are written are kept"
        )
    return key


def list_shards(params: Mapping[str, Any], parallel_tasks: int) -> list[list[Group]]:
    """The raw shards, pinned by ETag, in groups for the scan."""
    from packing.listing import list_raw_shards
    from packing.uris import absolute

    with task_errors():
        shards = list_raw_shards(open_storage(), absolute(params["source"]))
    log.info("%d raw shards, %d bytes", len(shards), sum(shard.size for shard in shards))
    return [[asdict(shard) for shard in group] for group in balanced_groups(shards, lambda s: s.size, parallel_tasks)]


def predict(params: Mapping[str, Any], parallel_tasks: int, price_per_hour: float | None) -> dict[str, Any]:
    """What the refresh would do, as the fields of `packing.predict.Prediction`; nothing is stored."""
    from packing.parallel import LOOKUPS, threads
    from packing.predict import predict as predict_refresh
    from packing.predict import prediction_rows
    from packing.uris import absolute

    with task_errors():
        storage = open_storage()
        prediction = predict_refresh(
            storage,
            threads(storage, LOOKUPS),
            absolute(params["source"]),
            absolute(params["destination"]),
            parameters_of(params),
            workers=parallel_tasks,
            max_rejected=params["max_rejected"],
            time_limit=params["time_limit"],
            price_per_hour=price_per_hour,
        )
    for name, value in prediction_rows(prediction):
        log.info("%-20s %s", name, value)
    return asdict(prediction)


def scan_group(group: Sequence[Group], params: Mapping[str, Any]) -> None:
    """Index each raw shard of the group that has no index yet."""
    from packing.scan import scan_shard
    from packing.types import RawShard
    from packing.uris import absolute

    with task_errors():
        storage = open_storage()
        for number, entry in enumerate(group, start=1):
            summary = scan_shard(
                storage,
                RawShard(**entry),
                destination=absolute(params["destination"]),
                max_rejected=params["max_rejected"],
            )
            log.info("%d of %d: %s: %d sequences", number, len(group), summary.shard.uri, summary.sequences)


def solve(
    groups: Sequence[Sequence[Group]], params: Mapping[str, Any], tags: Mapping[str, str], parallel_tasks: int
) -> tuple[dict[str, Any], list[Group]]:
    """The recipe as (`recipe_id`, `unchanged`, MLflow's `run_id`), and groups of its partitions for the write.

    Without a change there is nothing to write, and no new MLflow run.
    """
    from packing.commit import find_current, find_written
    from packing.parallel import serial
    from packing.partition import find_members
    from packing.recipe import contents_of, dataset_input_id
    from packing.report import track_recipe
    from packing.solve import solve_recipe
    from packing.types import RawShard
    from packing.uris import absolute

    source, destination, parameters = absolute(params["source"]), absolute(params["destination"]), parameters_of(params)
    with task_errors():
        storage = open_storage()
        shards = [RawShard(**entry) for group in groups for entry in group]
        summaries = _admitted(storage, shards, destination, parameters, params["max_rejected"])
        if current := find_current(storage, destination, dataset_input_id(parameters, contents_of(summaries))):
            unchanged, _ = current
            _log_recipe(unchanged)
            log.info("nothing changed: the packed dataset of this recipe is complete")
            return {"recipe_id": unchanged.recipe_id, "unchanged": True, "run_id": ""}, []
        limit = params["time_limit"]
        recipe = solve_recipe(storage, serial(storage), destination, parameters, summaries, time_limit=limit)
        _log_recipe(recipe)
        reused = find_written(storage, destination, recipe)
        run = track_recipe(open_tracker(), recipe, source=source, destination=destination, tags=tags, reused=reused)
    # Where the shards are now; the recipe may be one that was solved when they were elsewhere.
    by_name = {summary.shard.name: summary for summary in summaries}
    members = {p.digest: find_members(p.shards, p.records, by_name) for p in recipe.partitions}
    grouped = balanced_groups(recipe.partitions, lambda p: members[p.digest].compact_bytes, parallel_tasks)
    writes = [
        {
            "recipe_id": recipe.recipe_id,
            "partitions": [partition.digest for partition in group],
            "shards": [asdict(by_name[name].shard) for name in sorted({n for p in group for n in p.shards})],
        }
        for group in grouped
    ]
    return {"recipe_id": recipe.recipe_id, "unchanged": False, "run_id": run.run_id}, writes


def _admitted(
    storage: Storage, shards: Sequence[RawShard], destination: str, parameters: Parameters, max_rejected: int
) -> list[ShardSummary]:
    """The summaries of scanned shards, as far as the parameters allow what they hold."""
    from packing.admission import admit
    from packing.parallel import LOOKUPS, threads
    from packing.scan import scan_shard

    scan = partial(scan_shard, destination=destination, max_rejected=max_rejected)
    summaries = list(threads(storage, LOOKUPS)(scan, shards))
    return admit(storage, summaries, parameters, destination=destination, max_rejected=max_rejected)


def write_group(group: Group, params: Mapping[str, Any]) -> None:
    """Write the partitions of the group that the store does not hold completely."""
    from packing.partition import find_members
    from packing.types import RawShard
    from packing.uris import absolute
    from packing.write import write_if_missing

    destination = absolute(params["destination"])
    with task_errors():
        storage = open_storage()
        recipe = _recipe(storage, destination, group["recipe_id"])
        shards = [RawShard(**entry) for entry in group["shards"]]
        summaries = _admitted(storage, shards, destination, recipe.parameters, params["max_rejected"])
        by_name = {summary.shard.name: summary for summary in summaries}
        wanted = set(group["partitions"])
        mine = [partition for partition in recipe.partitions if partition.digest in wanted]
        for number, partition in enumerate(mine, start=1):
            work = (partition, find_members(partition.shards, partition.records, by_name))
            written = write_if_missing(storage, work, destination=destination, parameters=recipe.parameters)
            log.info(
                "%d of %d: partition %s: %d packs %s",
                number,
                len(mine),
                partition.digest[:12],
                partition.packs,
                "written" if written.new else "reused",
            )


def commit(solved: Mapping[str, Any], params: Mapping[str, Any], *, require_signature: bool = False) -> dict[str, Any]:
    """Check that all partitions are there, store the manifest and tell MLflow; a retry does the same again.

    Returns `recipe_id`, `manifest` and the figures of REPORTED.
    """
    from packing.commit import commit as commit_recipe
    from packing.commit import find_written, manifest_uri, point_to
    from packing.report import mark_committed, record_manifest
    from packing.uris import absolute

    destination = absolute(params["destination"])
    with task_errors():
        storage = open_storage()
        recipe = _recipe(storage, destination, solved["recipe_id"])
        uri = manifest_uri(destination, recipe.recipe_id)
        tracker = open_tracker()
        if solved["unchanged"]:
            point_to(storage, destination, recipe.recipe_id)
        else:
            key = key_to_sign_with(required=require_signature)
            signer = key.public.fingerprint if key else f"nobody, as Airflow finds no {SIGNING_CONNECTION}"
            log.info("signed by %s", signer)
            announce = partial(record_manifest, tracker.open_run(solved["run_id"]), uri=uri)
            written = find_written(storage, destination, recipe)
            commit_recipe(storage, destination, recipe, written, key=key, announce=announce)
        # From here on nothing fails: the dataset exists, and the asset's event is only emitted by a task that succeeds.
        mark_committed(tracker, storage, recipe.recipe_id, destination)
    _log_recipe(recipe)
    log.info("manifest: %s", uri)
    figures = {name: recipe.statistics[name] for name in REPORTED}
    return {"recipe_id": recipe.recipe_id, "manifest": uri, **figures}


def datasets(committed: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Parameters, InputDataset, InputDataset]:
    """The raw data that a commit is of and the packed dataset that it made, and the parameters that it has."""
    from packing.lineage import packed_dataset, raw_dataset
    from packing.manifest import read_manifest
    from packing.uris import absolute

    with task_errors():
        storage = open_storage()
        recipe = _recipe(storage, absolute(params["destination"]), committed["recipe_id"])
        manifest = read_manifest(storage, committed["manifest"])
    raw = raw_dataset(recipe, absolute(params["source"]))
    return recipe.parameters, raw, packed_dataset(manifest, committed["manifest"], "packed")


def summary(committed: Mapping[str, Any], *, unchanged: bool) -> str:
    """What a refresh came to, as Markdown."""
    rows = [f"| {name.replace('_', ' ')} | {value} |" for name, value in committed.items()]
    title = "Nothing changed: the packed dataset is complete." if unchanged else "The packed dataset was refreshed."
    return "\n".join([f"**{title}**", "", "| | |", "| --- | --- |", *rows])


def audit(committed: Mapping[str, str], params: Mapping[str, Any], *, require_signature: bool = False) -> str:
    """Audit the packed dataset and add the report to its recipe's run; fails if the audit does.

    With a key to sign with, the recipe has to be signed with it. Gives what was found in one line. What was found is in
    the task's log before MLflow is told, and a failed audit fails as such whether or not it could be recorded.
    """
    from packing.signing import check_signature
    from packing.uris import absolute
    from packing.verify import require

    source, manifest = absolute(params["source"]), committed["manifest"]
    with task_errors():
        # First what takes no time and may have to be tried again.
        key = key_to_sign_with(required=require_signature)
        signature = [check_signature(open_storage(), manifest, key.public)] if key else []
        checks = [*_audit_process(manifest, source), *signature]
        outcome = _outcome(checks)
        log.info("%s", "; ".join([outcome, *(check.detail for check in signature)]))
        untold = _record_patiently(committed["recipe_id"], checks, manifest, source)
        require(checks, "audited")
        if untold:
            raise TrackingError(
                f"{manifest}: the audit passed, {outcome}, as this log says line by line, but its report could not be "
                f"added to the recipe's run: {untold}; once MLflow is back, clear this task, which audits again"
            ) from untold
    return outcome


def _outcome(checks: Sequence[Check]) -> str:
    failed = [check.name for check in checks if not check.passed]
    if failed:
        return f"{len(failed)} of {len(checks)} lines fail: {', '.join(failed)}"
    return f"all {len(checks)} lines hold"


def _record_patiently(recipe_id: str, checks: Sequence[Check], manifest: str, source: str) -> StowageError | None:
    """Add the report to the recipe's run, and try that again for a while, as Airflow's retry would audit again.

    Gives the error that is left, or None.
    """
    untold: StowageError | None = None
    for pause in (0, *RECORD_PAUSES):
        time.sleep(pause)
        try:
            _record_audit(recipe_id, checks, manifest, source)
        except StowageError as exc:
            log.warning("the audit's report is not in MLflow: %s", exc)
            untold = exc
        else:
            return None
    return untold


def _record_audit(recipe_id: str, checks: Sequence[Check], manifest: str, source: str) -> None:
    from packing.audit.report import record_audit
    from packing.lineage import find_recipe_run

    tracker = open_tracker()
    if run := find_recipe_run(tracker, recipe_id, manifest):
        record_audit(tracker.open_run(run.run_id), checks, manifest=manifest, source=source)
    else:
        log.warning("recipe %s has no run in MLflow, so its audit is in this log only", recipe_id)


def _audit_process(manifest: str, source: str) -> list[Check]:
    """Run `packing audit` on all processors: a task's worker processes could not ask Airflow for its connections."""
    from packing.errors import InputError, StorageError
    from packing.verify import Check
    from stowage_airflow.connections import store_environment
    from stowage_airflow.process import TaskProcess

    command = [sys.executable, "-m", "packing", "audit", manifest, "--source", source, "--json"]
    environment = store_environment() if "s3://" in manifest + source else {}
    status, result, message = TaskProcess(command, {**os.environ, **environment}).run()
    checks = _parse(result).get("checks")
    if checks:
        return [Check(**check) for check in checks]
    error = StorageError if status not in (InputError.exit_status, UsageError.exit_status) else InputError
    raise error(f"the audit ended with status {status}: {message}")


def _parse(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


def _recipe(storage: Storage, destination: str, recipe_id: str) -> Recipe:
    from packing.recipe import read_recipe, recipe_uri

    return read_recipe(storage, recipe_uri(destination, recipe_id))


def _log_recipe(recipe: Recipe) -> None:
    from packing.report import summary_rows

    for name, value in summary_rows(recipe):
        log.info("%-20s %s", name, value)
