"""A whole refresh: the stages in the order in which the data flows.

Commands run `refresh`; the DAG runs the same stages as tasks. Stages leave their results in the store below
DESTINATION and hand each other names and digests only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from packing.admission import admit
from packing.commit import commit, find_current, find_listed, manifest_uri, point_to, remember_listing
from packing.errors import UsageError
from packing.listing import list_raw_shards
from packing.parallel import Progress, StageMap, tracked
from packing.partition import find_members
from packing.ports import Storage
from packing.recipe import contents_of, dataset_input_id
from packing.scan import read_summary, scan_new_shard
from packing.signing import Signature, SigningKey
from packing.solve import solve_recipe
from packing.solvers import check_time_limit
from packing.spool import Spool
from packing.types import Manifest, Parameters, Recipe
from packing.write import write_if_missing


@dataclass(frozen=True)
class Refresh:
    """What a refresh did: the recipe, its manifest, and how much of it was there before.

    `unchanged`: the dataset was complete, so nothing was written. `returned`: it was, and another one was current.
    """

    recipe: Recipe
    manifest: Manifest
    manifest_uri: str
    unchanged: bool
    shards_scanned: int
    partitions_written: int
    returned: bool = False


@dataclass(frozen=True)
class Stages:
    """How stages run: `lookups` maps many small reads, `work` what takes time; see `packing.parallel`."""

    lookups: StageMap
    work: StageMap
    spool: Spool | None = None
    progress: Progress | None = None


def refresh(
    storage: Storage,
    stages: Stages,
    source: str,
    destination: str,
    parameters: Parameters,
    *,
    max_rejected: int = 0,
    time_limit: float | None = None,
    on_recipe: Callable[[Recipe], None] | None = None,
    on_manifest: Callable[[Manifest, Signature | None], None] | None = None,
    key: SigningKey | None = None,
) -> Refresh:
    """Make the packed dataset of `source` exist below `destination`; only what changed is read and written.

    Up to `max_rejected` bad records are left out and listed in the recipe. `on_recipe` is called once a new recipe is
    stored, before any pack is written, `on_manifest` when all packs are, before the manifest is stored. With a
    `key`, what is made is signed; a dataset that is found complete is left as it is, signed or not.
    """
    check_request(source, destination, max_rejected, time_limit)
    progress = stages.progress
    shards = list_raw_shards(storage, source)
    listed = find_listed(storage, destination, parameters, shards)
    if listed and len(listed[0].rejected) <= max_rejected:
        return _unchanged(storage, destination, *listed)
    cached = list(stages.lookups(partial(read_summary, destination=destination), shards))
    new = [shard for shard, summary in zip(shards, cached, strict=True) if summary is None]
    scan = partial(scan_new_shard, destination=destination, max_rejected=max_rejected, spool=stages.spool)
    scanned = iter(tracked(progress, "scan", stages.work(scan, new), len(new)))
    summaries = [summary or next(scanned) for summary in cached]
    summaries = admit(storage, summaries, parameters, destination=destination, max_rejected=max_rejected)
    input_id = dataset_input_id(parameters, contents_of(summaries))
    if current := find_current(storage, destination, input_id):
        remember_listing(storage, destination, parameters, shards, input_id)
        return _unchanged(storage, destination, *current, shards_scanned=len(new))
    recipe = solve_recipe(storage, stages.work, destination, parameters, summaries, time_limit, progress)
    if on_recipe:
        on_recipe(recipe)
    by_name = {summary.shard.name: summary for summary in summaries}
    work = [(partition, find_members(partition.shards, partition.records, by_name)) for partition in recipe.partitions]
    # The largest first, so that no worker is left with a large one at the end.
    work.sort(key=lambda item: -item[1].compact_bytes)
    write = partial(write_if_missing, destination=destination, parameters=parameters, spool=stages.spool)
    done = tracked(progress, "write", stages.work(write, work), len(work))
    written = {partition.digest: result.shards for (partition, _), result in zip(work, done, strict=True)}
    manifest = commit(storage, destination, recipe, written, key=key, announce=on_manifest)
    remember_listing(storage, destination, parameters, shards, recipe.input_id)
    return Refresh(
        recipe,
        manifest,
        manifest_uri(destination, recipe.recipe_id),
        unchanged=False,
        shards_scanned=len(new),
        partitions_written=sum(result.new for result in done),
    )


def _unchanged(
    storage: Storage, destination: str, recipe: Recipe, manifest: Manifest, *, shards_scanned: int = 0
) -> Refresh:
    before = point_to(storage, destination, recipe.recipe_id)
    return Refresh(
        recipe,
        manifest,
        manifest_uri(destination, recipe.recipe_id),
        unchanged=True,
        shards_scanned=shards_scanned,
        partitions_written=0,
        returned=before not in {"", recipe.recipe_id},
    )


def check_request(source: str, destination: str, max_rejected: int, time_limit: float | None) -> None:
    """Refuse what cannot work whatever the data is; `packing.types.Parameters` refuses the rest."""
    check_locations(source, destination)
    if max_rejected < 0:
        raise UsageError(f"max_rejected: expected a number >= 0, got {max_rejected}")
    check_time_limit(time_limit)


def check_locations(source: str, destination: str) -> None:
    """Refuse places in which packed shards would be taken for raw ones by the next refresh."""
    source, destination = _resolved(source), _resolved(destination)
    if _is_within(destination, source):
        raise UsageError(f"destination {destination} is below source {source}; choose one beside it")
    if any(_is_within(source, f"{destination}/{own}") for own in ("index", "manifests", "recipes", "shards")):
        raise UsageError(f"source {source} is part of the packed dataset {destination}; choose raw shards")


def _resolved(uri: str) -> str:
    return uri if uri.startswith("s3://") else os.path.realpath(uri)


def _is_within(uri: str, folder: str) -> bool:
    return f"{uri}/".startswith(f"{folder}/")
