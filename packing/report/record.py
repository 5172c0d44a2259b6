"""The recipe's record in the tracker: a run when it is solved, all of its packed dataset when that is about to exist.

Only once the manifest is stored is the run told that the dataset exists, as a dataset exists when its manifest does. A
refresh may break off at any step: what it could not tell by then, the next refresh of the destination does.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from packing.commit import find_written, manifest_uri
from packing.errors import InputError, ObjectNotFoundError, StowageError, TrackerRefusedError, TrackingError
from packing.jsonio import digest
from packing.lineage import (
    DESCRIPTION,
    MANIFEST,
    PACKED,
    RECENT_RUNS,
    RECIPES,
    find_recipe_run,
    packed_dataset,
    raw_dataset,
    recipe_runs,
)
from packing.manifest import manifest_bytes, read_manifest
from packing.ports import Metric, Run, Storage, TrackedRun, Tracker
from packing.recipe import recipe_bytes, recipe_uri
from packing.report.figures import recipe_figures
from packing.report.html import report_page
from packing.report.markdown import description, plain
from packing.report.tables import recipe_tables
from packing.report.words import parameter_rows
from packing.signing import Signature
from packing.types import Manifest, Recipe

log = logging.getLogger(__name__)

TRIGGERED_BY = "stowage.triggered_by"
SIGNED_BY = "stowage.signed_by"
DAG_RUN_URL = "airflow.dag_run_url"

RETURNED = "stowage.returned."
"""Before a time, the tag of a recipe run whose dataset became current again then: who or what asked for that."""

ALIAS = "stowage.alias"
"""The tag of a recipe run that the tracker `refused` to make current, or that it then `set`."""


def track_recipe(
    tracker: Tracker,
    recipe: Recipe,
    *,
    source: str,
    destination: str,
    tags: Mapping[str, str],
    reused: Collection[str],
) -> Run:
    """Record the recipe as a finished run; `record_manifest` adds what is known when all packs are written.

    `tags` say who or what asked for it, `reused` are the digests of the partitions that the store holds already. A
    refresh that was rejected or broke off leaves a run without a packed dataset; the next one of this recipe goes on
    with that, and says who asked last.
    """
    params = {
        "recipe_id": recipe.recipe_id,
        "input_id": recipe.input_id,
        "source": source,
        "destination": destination,
        **dict(parameter_rows(recipe)),
    }
    tables, figures = recipe_tables(recipe, reused), recipe_figures(recipe)
    places = lineage(recipe, source, destination, tags)
    text = description(recipe, tables["top_strategies"], places)
    name = f"recipe-{recipe.recipe_id[:12]}"
    tags = {**tags, DESCRIPTION: text}
    run = _find_open_run(tracker, recipe.recipe_id, source, destination) or tracker.start_run(
        RECIPES, name, params=params, tags=tags
    )
    try:
        run.set_tags(tags)
        now = time.time_ns() // 1_000_000
        numbers = {key: value for key, value in recipe.statistics.items() if not isinstance(value, str)}
        numbers["partitions_reused"] = len(reused)
        run.log_metrics(Metric(key, float(value), 0, now) for key, value in numbers.items())
        run.log_inputs([raw_dataset(recipe, source)])
        run.log_artifacts(
            {
                "recipe/recipe.json": recipe_bytes(recipe),
                "recipe/report.html": report_page(recipe, tables, figures, places).encode(errors="backslashreplace"),
                "recipe/summary.md": text.encode(),
                **{f"recipe/figures/{name}.png": picture for name, picture in figures.items()},
            }
        )
        run.log_tables({f"recipe/tables/{name}.json": table for name, table in tables.items()})
    except BaseException:
        with suppress(TrackingError):  # which would hide why
            run.finish("FAILED")
        raise
    run.finish()
    return run


def _find_open_run(tracker: Tracker, recipe_id: str, source: str, destination: str) -> Run | None:
    """The recipe's newest run between these places, if it was recorded in full and no packed dataset came of it yet."""
    newest = next(iter(recipe_runs(tracker, recipe_id, source=source, destination=destination)), None)
    if newest and newest.status == "FINISHED" and MANIFEST not in newest.tags:
        return tracker.open_run(newest.run_id)
    return None


def lineage(recipe: Recipe, source: str, destination: str, tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """Where a recipe comes from and where it leads, as names and places."""
    rows = [
        ("raw shards", source),
        ("their fingerprint", recipe.fingerprint),
        ("recipe", recipe_uri(destination, recipe.recipe_id)),
        ("manifest, once packed", manifest_uri(destination, recipe.recipe_id)),
        ("triggered by", tags.get(TRIGGERED_BY, "")),
        ("DAG run", tags.get(DAG_RUN_URL, "")),
    ]
    return [(name, value) for name, value in rows if value]


def record_manifest(run: Run, manifest: Manifest, signature: Signature | None, *, uri: str) -> None:
    """Add to the recipe's run what its packed dataset consists of and who signed it; the manifest is stored next.

    The tag comes last, so a run that has it has all of this. That the dataset exists is not for this to say.
    """
    run.log_artifacts({"recipe/manifest.json": manifest_bytes(manifest)})
    run.log_inputs([packed_dataset(manifest, uri, "packed")])
    if signature:
        run.log_artifacts({"recipe/recipe.sig.json": signature.document})
        run.set_tags({SIGNED_BY: signature.signed_by})
    run.set_tags({PACKED: uri})


def mark_committed(
    tracker: Tracker,
    storage: Storage,
    recipe_id: str,
    destination: str,
    *,
    returned_by: Mapping[str, str] | None = None,
) -> str:
    """Tell the tracker that the recipe's packed dataset exists and is the current one, if its run was recorded.

    It is also told of the destination's earlier datasets, where that was not possible when they were committed, and if
    this is a return to one of them, of the tags `returned_by` that say who or what asked for it. The dataset exists by
    now, whatever the tracker says, so a failure is only a warning, and left to the next refresh. What no refresh can
    mend, as the tracker refuses it, is given as a text for people; "" if there is nothing of that kind.
    """
    uri, name, refusal = manifest_uri(destination, recipe_id), registered_name(destination), ""
    try:
        if run := find_recipe_run(tracker, recipe_id, uri):
            refusal = _make_current(tracker, storage, run, destination, returned_by)
        for other in tracker.find_runs(RECIPES, params={"destination": destination}, limit=RECENT_RUNS).runs:
            if not run or other.run_id != run.run_id:
                _tell_committed(tracker, storage, other, destination)
    except TrackerRefusedError as exc:
        refusal = refusal or (
            f"The dataset {uri} is complete, but MLflow refused to be told all of that ({exc}). Give MLflow's user the "
            f"permission EDIT on the experiment {RECIPES}, then refresh again, which tells it."
        )
    except StowageError as exc:
        log.warning(
            "%s; the dataset %s is complete, but its run may lack the tag %s, and the alias `current` of %s may be "
            "that of an earlier recipe; the next refresh mends both",
            exc, uri, MANIFEST, name,
        )  # fmt: skip
    if refusal:
        log.warning("%s", refusal)
    return refusal


def _make_current(
    tracker: Tracker, storage: Storage, run: TrackedRun, destination: str, returned_by: Mapping[str, str] | None
) -> str:
    """Tell a recipe's run and the registry; gives what the registry refuses, of which the run is told, or ""."""
    _tell_committed(tracker, storage, run, destination)
    recipe_id = run.params["recipe_id"]
    if returned_by is not None:
        _tell_returned(tracker, run, returned_by)
    try:
        _set_current(tracker, run.run_id, recipe_id, destination)
    except TrackerRefusedError as exc:
        with suppress(TrackingError):
            tracker.open_run(run.run_id).set_tags({ALIAS: "refused"})
        return _refusal(exc, manifest_uri(destination, recipe_id), registered_name(destination))
    if ALIAS in run.tags:
        tracker.open_run(run.run_id).set_tags({ALIAS: "set"})
    return ""


def _tell_returned(tracker: Tracker, run: TrackedRun, returned_by: Mapping[str, str]) -> None:
    """Let the run say who or what asked for the return; a DAG run that is tried again says so once."""
    asked = ", ".join(returned_by[tag] for tag in (TRIGGERED_BY, DAG_RUN_URL) if returned_by.get(tag))
    if DAG_RUN_URL in returned_by and asked in run.tags.values():
        return
    now = time.strftime("%Y-%m-%dT%H.%M.%SZ", time.gmtime())
    tracker.open_run(run.run_id).set_tags({f"{RETURNED}{now}": asked})


def _refusal(error: StowageError, uri: str, name: str) -> str:
    return (
        f"The dataset {uri} is complete, but MLflow refused to be told that it is current ({error}), so the alias "
        f"`current` of the registered model {name} stays at an earlier recipe, if it has one. Give MLflow's user the "
        "permission EDIT on the registered models recipes-*, then refresh again, which sets the alias."
    )


def _tell_committed(tracker: Tracker, storage: Storage, run: TrackedRun, destination: str) -> None:
    """Let a run that knows all of its packed dataset say that this exists, once it does."""
    recipe_id = run.params.get("recipe_id", "")
    uri = manifest_uri(destination, recipe_id)
    untold = run.tags.get(PACKED) == uri and run.tags.get(MANIFEST) != uri
    if untold and _is_stored(storage, uri, recipe_id):
        tracker.open_run(run.run_id).set_tags({MANIFEST: uri})


def _is_stored(storage: Storage, uri: str, recipe_id: str) -> bool:
    try:
        return read_manifest(storage, uri).recipe_id == recipe_id
    except (ObjectNotFoundError, InputError):
        return False


def _set_current(tracker: Tracker, run_id: str, recipe_id: str, destination: str) -> None:
    """Let the alias `current` point to this recipe, which has one version, however often it becomes current again."""
    tracker.set_current(
        registered_name(destination),
        run_id,
        tags={"recipe_id": recipe_id, "manifest": manifest_uri(destination, recipe_id)},
        description=f"Recipes of the packed dataset {plain(destination)}. "
        "The version with the alias `current` is the one that its last refresh led to.",
    )


@dataclass
class RefreshRecord:
    """The record of a refresh in one process, which grows with it; a refresh that finds nothing changed has no run."""

    storage: Storage
    tracker: Tracker
    source: str
    destination: str
    tags: Mapping[str, str]
    run: Run | None = None

    def add_recipe(self, recipe: Recipe) -> None:
        reused = find_written(self.storage, self.destination, recipe)
        places = {"source": self.source, "destination": self.destination}
        self.run = track_recipe(self.tracker, recipe, **places, tags=self.tags, reused=reused)

    def add_manifest(self, manifest: Manifest, signature: Signature | None) -> None:
        if self.run:
            uri = manifest_uri(self.destination, manifest.recipe_id)
            record_manifest(self.run, manifest, signature, uri=uri)

    def mark_committed(self, recipe: Recipe, *, returned: bool = False) -> None:
        returned_by = self.tags if returned else None
        mark_committed(self.tracker, self.storage, recipe.recipe_id, self.destination, returned_by=returned_by)


def registered_name(destination: str) -> str:
    """Under which the recipes of a destination are registered; MLflow allows neither slashes nor colons."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", destination).strip("-")
    return f"recipes-{words[-100:]}-{digest(destination)[:8]}"
