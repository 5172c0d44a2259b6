"""What MLflow records of recipes and of the trainings that used them, as the page shows it.

Older records lack some of it, and nothing is made up in its place.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from packing.audit.report import AUDIT
from packing.errors import RunNotFoundError, TrackerAwayError, TrackingError
from packing.lineage import MANIFEST, RECIPES, dataset_digest
from packing.ports import NOTHING, TrackedRun, Tracker
from packing.report.record import ALIAS, SIGNED_BY, TRIGGERED_BY, registered_name
from stowage_airflow.approval_question import APPROVAL
from stowage_airflow.page.words import describe_gap, moment

TRAININGS = "bert-pretraining"
PAGE_ROWS = 25
LISTED_TRAININGS = 100
"""Of the recipes on one page of the list; a recipe's own page has all."""
COUNTS = ("sequences", "packs", "lower_bound", "gap", "partitions_reused")
FIGURES = (*COUNTS, "packing_efficiency", "packing_factor")
_MOST = 2.0**53
"""Beyond this MLflow's metrics, which are floats, do not count."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One record of a recipe: a run in the experiment `packing-recipes`.

    `figures` are those of FIGURES, as far as they are recorded, NaN where no such figure can be; `dag_run` is (DAG id,
    run id) or None; `manifest` is "" for a recipe whose dataset was not completed; `answers` say who approved or
    rejected it, newest first.
    """

    run_id: str
    recipe_id: str
    source: str
    destination: str
    params: Mapping[str, str]
    figures: Mapping[str, int | float]
    gap_word: str
    started: datetime
    recording: bool
    failed: bool
    triggered_by: str
    dag_run: tuple[str, str] | None
    manifest: str
    audit: str
    signed_by: str
    answers: tuple[str, ...]
    alias_refused: bool

    @property
    def name(self) -> str:
        """What `open_record` opens."""
        return f"{self.recipe_id}:{self.run_id}"

    @property
    def can_be_filtered(self) -> bool:
        """Whether MLflow can look for the destination: its filters have no escapes, so one kind of quotes must do."""
        return bool(self.destination) and not {"'", '"'} <= set(self.destination)


@dataclass(frozen=True)
class Current:
    """The recipe at which the alias `current` of a destination is."""

    recipe_id: str
    destination: str
    manifest: str

    def is_of(self, record: Record) -> bool:
        return bool(self.manifest) and self.manifest == record.manifest


@dataclass(frozen=True)
class Training:
    """One run in the experiment `bert-pretraining`; `speedup` is measured, of a comparison only."""

    run_id: str
    name: str
    status: str
    started: datetime
    recipe_ids: tuple[str, ...]
    speedup: float | None


@dataclass(frozen=True)
class RecordPage:
    """Records, newest first, and the token that asks for older ones; "" after the last."""

    records: tuple[Record, ...]
    next_page: str


@dataclass(frozen=True)
class Trainings:
    """Trainings by recipe, newest first; `all_read` is False if there are older ones that were not read."""

    by_recipe: Mapping[str, tuple[Training, ...]]
    all_read: bool


def list_records(tracker: Tracker, destination: str, page: str) -> RecordPage:
    """One page of records, of one destination or, for "", of all."""
    wanted = {"destination": destination} if destination else NOTHING
    found = tracker.find_runs(RECIPES, params=wanted, limit=PAGE_ROWS, page=page)
    return RecordPage(tuple(record_of(run) for run in found.runs), found.next_page)


def known_destinations(tracker: Tracker) -> tuple[str, ...]:
    """Those of the newest recipes, as far as the list can be of one of them."""
    newest = map(record_of, tracker.find_runs(RECIPES).runs)
    return tuple(dict.fromkeys(record.destination for record in newest if record.can_be_filtered))


def find_current(tracker: Tracker, destination: str) -> Current | None:
    """The current recipe of a destination, None if MLflow has none, or does not tell: not all may read its registry."""
    name = registered_name(destination)
    try:
        tags = tracker.find_current(name)
    except TrackerAwayError:
        raise
    except TrackingError as exc:
        log.warning("%s: which of its recipes is current is not known (%s)", name, exc)
        return None
    recipe_id = tags.get("recipe_id", "")
    return Current(recipe_id, destination, tags.get("manifest", "")) if recipe_id else None


def find_records(tracker: Tracker, recipe_id: str) -> tuple[Record, ...]:
    """All records of a recipe, newest first; raises RunNotFoundError if there is none."""
    records = tuple(record_of(run) for run in _every_run(tracker, RECIPES, params={"recipe_id": recipe_id}))
    if not records:
        raise RunNotFoundError(f"recipe {recipe_id}: MLflow has no record of it; it may have been deleted there")
    return records


def choose_record(records: Iterable[Record], run_id: str, destination: str = "") -> Record:
    """The newest record of this run and of this destination, "" being any; raises RunNotFoundError."""
    for record in records:
        if run_id in {"", record.run_id} and destination in {"", record.destination}:
            return record
    wanted = f"run {run_id}" if run_id else destination
    raise RunNotFoundError(f"{wanted}: no record of this recipe; take one from the list")


def open_record(tracker: Tracker, name: str) -> Record:
    """The record with this `Record.name`, for a recipe's id alone its newest; raises RunNotFoundError."""
    recipe_id, _, run_id = name.partition(":")
    return choose_record(find_records(tracker, recipe_id), run_id)


def trainings_on(tracker: Tracker, records: Iterable[Record]) -> Trainings:
    """The trainings that have the packed dataset of any of these recipes as an input, in one request."""
    digests = {dataset_digest(record.recipe_id) for record in records if record.recipe_id}
    if not digests:
        return Trainings({}, all_read=True)
    found = tracker.find_runs(TRAININGS, inputs=sorted(digests), limit=LISTED_TRAININGS)
    grouped: dict[str, list[Training]] = defaultdict(list)
    for training in map(training_of, found.runs):
        for recipe_id in training.recipe_ids:
            grouped[recipe_id].append(training)
    return Trainings({recipe_id: tuple(own) for recipe_id, own in grouped.items()}, not found.next_page)


def trainings_of(tracker: Tracker, recipe_id: str) -> tuple[Training, ...]:
    """All trainings on this recipe, newest first, those included that only name it in their params."""
    by_input = _every_run(tracker, TRAININGS, inputs=[dataset_digest(recipe_id)])
    by_param = _every_run(tracker, TRAININGS, params={"recipe_id": recipe_id})
    every = {run.run_id: training_of(run) for run in (*by_input, *by_param)}
    own = (training for training in every.values() if recipe_id in training.recipe_ids)
    return tuple(sorted(own, key=lambda training: training.started, reverse=True))


def _every_run(tracker: Tracker, experiment: str, **wanted: Any) -> Iterator[TrackedRun]:
    """What `Tracker.find_runs` finds, in as many requests as it takes."""
    page: str | None = ""
    while page is not None:
        found = tracker.find_runs(experiment, **wanted, page=page)
        yield from found.runs
        page = found.next_page or None


def record_of(run: TrackedRun) -> Record:
    """A run of `packing-recipes`."""
    params, tags = run.params, run.tags
    figures = {name: _figure(name, run.metrics[name]) for name in FIGURES if name in run.metrics}
    dag_run = (tags.get("airflow.dag_id", ""), tags.get("airflow.run_id", ""))
    return Record(
        run_id=run.run_id,
        recipe_id=params.get("recipe_id", ""),
        source=params.get("source", ""),
        destination=params.get("destination", ""),
        params=params,
        figures=figures,
        gap_word=describe_gap(figures.get("packs"), figures.get("lower_bound")),
        started=moment(run.started),
        recording=run.status in {"RUNNING", "SCHEDULED"},
        failed=run.status in {"FAILED", "KILLED"} or "recipe_id" not in params,
        triggered_by=tags.get(TRIGGERED_BY) or ("Airflow" if all(dag_run) else "not recorded"),
        dag_run=dag_run if all(dag_run) else None,
        manifest=tags.get(MANIFEST, ""),
        audit=tags.get(AUDIT, ""),
        signed_by=tags.get(SIGNED_BY, ""),
        answers=tuple(tags.get(APPROVAL, "").splitlines()),
        alias_refused=tags.get(ALIAS) == "refused",
    )


def training_of(run: TrackedRun) -> Training:
    """A run of `bert-pretraining`; several recipes are one text there, separated by blanks."""
    speedup = run.metrics.get("speedup")
    return Training(
        run_id=run.run_id,
        name=run.name,
        status=run.status,
        started=moment(run.started),
        recipe_ids=tuple(run.params.get("recipe_id", "").split()),
        speedup=None if speedup is None else _figure("speedup", speedup),
    )


def _figure(name: str, value: float) -> int | float:
    """A metric, NaN where the figure of this name cannot be such a number: anybody may log anything to MLflow."""
    most = 1.0 if name == "packing_efficiency" else _MOST
    if not 0 <= value <= most or (name in COUNTS and not value.is_integer()):
        return math.nan
    return int(value) if value.is_integer() else value
