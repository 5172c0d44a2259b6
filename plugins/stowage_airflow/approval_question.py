"""What a person is asked before a packed dataset is written, and the record of who answered what."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from packing.errors import InputError, ObjectNotFoundError, TrackingError
from stowage_airflow.changes import PACK_SHAPE, changes_between, describe, exceeding, shard_changes

if TYPE_CHECKING:
    from packing.ports import Storage, TrackedRun, Tracker
    from packing.types import Recipe

log = logging.getLogger(__name__)

APPROVAL = "stowage.approval"
"""The tag of a recipe run with the last answers about it, one a line, newest first."""

ANSWERS = 10
"""Answers that the tag keeps."""

NAMES = 5
"""Raw shards that a question names of each kind."""


def approval_question(storage: Storage, tracker: Tracker, solved: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    """What to ask a person before the write, in Markdown; "" if nothing is to be asked. The first line says why.

    Current is the recipe that the store named when this one was solved or else the one that MLflow's registry names.
    Where neither does, although there are packed datasets below the destination, or where that recipe cannot be read, a
    person decides about whatever is new.
    """
    from packing.report.record import registered_name
    from packing.uris import absolute

    if params["approve_above"] is None:
        return ""
    recipe_id, destination = solved["recipe_id"], absolute(params["destination"])
    if solved["current"] == recipe_id:
        return ""
    alias = _alias(tracker, registered_name(destination), needed=not solved["current"])
    current_id = solved["current"] or alias
    if current_id == recipe_id:
        return ""
    if current_id:
        why = _differences(storage, current_id, recipe_id, destination, params)
    else:
        known = solved["exists"] or not storage.list(f"{destination}/manifests")
        why = "" if known else _unknown_current(destination)
    if not why:
        return ""
    current = f"Current recipe `{current_id}`, new" if current_id else "New"
    answers = (
        f"{current} recipe `{recipe_id}`. **Approve** makes its packed dataset the current one, and writes what of it "
        "is not there yet; **Reject** writes nothing and leaves the current one."
    )
    stale = [_stale_alias(alias)] if alias not in {"", current_id} else []
    return "\n\n".join([why, answers, *stale, *_earlier_answer(tracker, recipe_id, destination)])


def _alias(tracker: Tracker, name: str, *, needed: bool) -> str:
    """The recipe that MLflow's registry names; where the store knows better, not all may be allowed to read it."""
    try:
        return tracker.find_current(name).get("recipe_id", "")
    except TrackingError as exc:
        if needed:
            raise
        log.warning("%s: not compared with MLflow's alias (%s)", name, exc)
        return ""


def _unknown_current(destination: str) -> str:
    return (
        f"There are packed datasets below `{destination}`, but neither the store nor MLflow knows which one is "
        "current, so nothing can be compared."
    )


def _stale_alias(alias: str) -> str:
    return (
        f"MLflow's alias `current` names another recipe, `{alias}`: MLflow was not told of the last commit, or refused "
        "to be, which that commit's summary says then."
    )


def _differences(storage: Storage, current_id: str, recipe_id: str, destination: str, params: Mapping[str, Any]) -> str:
    """How the new recipe differs from the current one; "" if by no more than the threshold."""
    from packing.recipe import read_recipe, recipe_uri

    new = read_recipe(storage, recipe_uri(destination, recipe_id))
    try:
        current = read_recipe(storage, recipe_uri(destination, current_id))
    except (ObjectNotFoundError, InputError) as exc:
        return (
            f"It is known which recipe of `{destination}` is current, but that recipe cannot be read, so nothing can "
            f"be compared.\n\nWhat is missing: {exc}"
        )
    changes, threshold = changes_between(current, new), params["approve_above"]
    exceeded = [change.name for change in exceeding(changes, threshold)]
    if not exceeded:
        return ""
    return "\n\n".join(
        [
            f"The recipe of `{params['source']}` for `{destination}` differs from the current one: "
            f"{', '.join(exceeded)}.",
            describe(changes, threshold),
            f"Asked is above {threshold:g} %, and always if {', '.join(PACK_SHAPE)} differ.",
            *_named_shards(current, new),
        ]
    )


def _named_shards(current: Recipe, new: Recipe) -> list[str]:
    found = shard_changes(current, new)
    lines = [f"- {len(names):,} {kind}: {_some(names)}" for kind, names in found.items() if names]
    return ["\n".join(["Raw shards:", "", *lines])] if lines else []


def _some(names: Sequence[str]) -> str:
    from packing.report.markdown import plain

    more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
    return ", ".join(map(plain, names[:NAMES])) + more


def _earlier_answer(tracker: Tracker, recipe_id: str, destination: str) -> list[str]:
    run = _newest_run(tracker, recipe_id, destination)
    answers = run.tags.get(APPROVAL, "") if run else ""
    return [f"This recipe was asked about before: {answers.splitlines()[0]}."] if answers else []


def record_answer(tracker: Tracker, recipe_id: str, destination: str, answer: str) -> None:
    """Let the newest run of the recipe for this destination say who answered what."""
    if run := _newest_run(tracker, recipe_id, destination):
        answers = [answer, *run.tags.get(APPROVAL, "").splitlines()]
        tracker.open_run(run.run_id).set_tags({APPROVAL: "\n".join(answers[:ANSWERS])})


def _newest_run(tracker: Tracker, recipe_id: str, destination: str) -> TrackedRun | None:
    from packing.lineage import recipe_runs

    return next(iter(recipe_runs(tracker, recipe_id, destination=destination)), None)
