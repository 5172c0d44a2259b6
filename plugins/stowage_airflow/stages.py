"""The pipeline's stages as bodies of tasks.

A task gets URIs, names and digests, never data; what it makes, it leaves in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from packing.errors import SecretError, UsageError
from packing.outcome import REFRESHED, RETURNED, UNCHANGED
from packing.ports import NOTHING
from stowage_airflow.connections import SIGNING_CONNECTION, open_storage, open_tracker, signing_key, task_errors
from stowage_airflow.groups import balanced_groups

if TYPE_CHECKING:
    from packing.ports import InputDataset, Storage
    from packing.signing import SigningKey
    from packing.types import Parameters, RawShard, Recipe, ShardSummary

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


@dataclass(frozen=True)
class Committed:
    """What a commit came to: one of REFRESHED, RETURNED and UNCHANGED, and what MLflow refuses to be told of it.

    `dataset` has `recipe_id`, `manifest` and the figures of REPORTED.
    """

    dataset: Mapping[str, Any]
    outcome: str
    refusal: str


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
            solvers=1,  # one task solves them all
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
    """What was solved, and groups of its partitions for the write.

    The former is the `recipe_id`; `current`, the recipe that the store names as the current one by now, or ""; whether
    the packed dataset `exists`, so that there is nothing to write and no new MLflow run; and MLflow's `run_id`.
    """
    from packing.commit import find_current, find_latest, find_written
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
        current = find_latest(storage, destination)
        if found := find_current(storage, destination, dataset_input_id(parameters, contents_of(summaries))):
            return _existing(found[0], current), []
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
    known = {"recipe_id": recipe.recipe_id, "current": current, "exists": False, "run_id": run.run_id}
    return known, writes


def _existing(recipe: Recipe, current: str) -> dict[str, Any]:
    """What was solved where the packed dataset of its recipe is complete already."""
    _log_recipe(recipe)
    log.info("the packed dataset of this recipe is complete: nothing is to be written; current is %s", current or "?")
    return {"recipe_id": recipe.recipe_id, "current": current, "exists": True, "run_id": ""}


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


def commit(
    solved: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    tags: Mapping[str, str] = NOTHING,
    told: str = "",
    require_signature: bool = False,
) -> Committed:
    """Check that all partitions are there, store the manifest and tell MLflow; a retry does the same again.

    `told` is the recipe of the newest event that the destination's asset has had, or "". `tags` say who or what asked.
    """
    from packing.commit import commit as commit_recipe
    from packing.commit import find_written, manifest_uri, point_to
    from packing.report import mark_committed, record_manifest
    from packing.signing import check_signature
    from packing.uris import absolute
    from packing.verify import require

    destination, outcome = absolute(params["destination"]), outcome_of(solved, told)
    with task_errors():
        storage = open_storage()
        recipe = _recipe(storage, destination, solved["recipe_id"])
        uri = manifest_uri(destination, recipe.recipe_id)
        tracker = open_tracker()
        if solved["exists"]:
            if require_signature and outcome != UNCHANGED and (key := key_to_sign_with(required=True)):
                require([check_signature(storage, uri, key.public)], "made current again")
            point_to(storage, destination, recipe.recipe_id)
        else:
            key = key_to_sign_with(required=require_signature)
            signer = key.public.fingerprint if key else f"nobody, as Airflow finds no {SIGNING_CONNECTION}"
            log.info("signed by %s", signer)
            announce = partial(record_manifest, tracker.open_run(solved["run_id"]), uri=uri)
            written = find_written(storage, destination, recipe)
            commit_recipe(storage, destination, recipe, written, key=key, announce=announce)
        # From here on nothing fails: the dataset exists, and the asset's event is only emitted by a task that succeeds.
        returned_by = tags if outcome == RETURNED else None
        refusal = mark_committed(tracker, storage, recipe.recipe_id, destination, returned_by=returned_by)
    _log_recipe(recipe)
    log.info("%s; manifest: %s", outcome, uri)
    figures = {name: recipe.statistics[name] for name in REPORTED}
    return Committed({"recipe_id": recipe.recipe_id, "manifest": uri, **figures}, outcome, refusal)


def outcome_of(solved: Mapping[str, Any], told: str) -> str:
    """What the commit of what was solved comes to for those who follow the destination's asset.

    They know what its newest event said, whoever moved what since, and however often a commit is tried or cleared.
    Where there was none, or none is kept any more, they know what was current when the recipe was solved.
    """
    recipe_id, current = solved["recipe_id"], solved["current"]
    if told == recipe_id or (not told and solved["exists"] and current in {"", recipe_id}):
        return UNCHANGED
    return RETURNED if solved["exists"] and current != recipe_id else REFRESHED


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


def summary(committed: Committed) -> str:
    """What a refresh came to, as Markdown."""
    rows = [f"| {name.replace('_', ' ')} | {value} |" for name, value in committed.dataset.items()]
    refusal = [committed.refusal, ""] if committed.refusal else []
    return "\n".join([f"**{committed.outcome.capitalize()}.**", "", *refusal, "| | |", "| --- | --- |", *rows])


def _recipe(storage: Storage, destination: str, recipe_id: str) -> Recipe:
    from packing.recipe import read_recipe, recipe_uri

    return read_recipe(storage, recipe_uri(destination, recipe_id))


def _log_recipe(recipe: Recipe) -> None:
    from packing.report import summary_rows

    for name, value in summary_rows(recipe):
        log.info("%-20s %s", name, value)
