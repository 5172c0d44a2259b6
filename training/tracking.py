"""A training run as the tracker knows it: found again or started, and ended whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorflow as tf

from packing.errors import RunNotFoundError, TrackingError, UsageError
from packing.ports import Run, Tracker
from training.config import TrainingConfig
from training.devices import device_name
from training.examples import Examples
from training.lineage import join_runs, lineage_tags, recipe_runs
from training.preemption import PreemptedError
from training.saved import SavedConfig
from training.sender import CLOSE_SECONDS, MetricSender
from training.spool import MARK_SUFFIX

EXPERIMENT = "bert-pretraining"
PARENT = "mlflow.parentRunId"
GRACE_SECONDS = 10.0
"""How long a stopping run waits for the tracker; who sent the SIGTERM waits 30 s, as a rule."""

logger = logging.getLogger(__name__)


def open_run(
    tracker: Tracker,
    config: TrainingConfig,
    params: Mapping[str, object],
    data: Sequence[Examples],
    saved_run_id: str,
    tags: Mapping[str, str] | None = None,
) -> Run:
    """The tracked run to add to: the saved one when resuming, else a new one.

    Several recipes and manifests are one text, separated by blanks.
    """
    if saved_run_id:
        try:
            return tracker.open_run(saved_run_id)
        except RunNotFoundError as exc:
            logger.warning("%s; the resumed run is tracked as a new one", exc)
    return start_run(tracker, config.mode, params, data, tags)


def start_run(
    tracker: Tracker,
    kind: str,
    params: Mapping[str, object],
    data: Sequence[Examples],
    tags: Mapping[str, str] | None = None,
) -> Run:
    """A new run that is joined with those of its recipes; the sides of a comparison leave this to the comparison."""
    packed = [examples for examples in data if examples.packed]
    values = {"recipe_id": [str(x.recipe_id) for x in packed], "manifest": [x.uri for x in packed]}
    identity = {name: " ".join(texts) for name, texts in values.items() if texts}
    recipes = recipe_runs(tracker, data)
    own = {**{f"stowage.{name}": value for name, value in identity.items()}, **lineage_tags(recipes, data)}
    run = tracker.start_run(
        EXPERIMENT,
        f"{kind} {identity.get('recipe_id', '')[:12]}".strip(),
        params={name: str(value) for name, value in {**params, **identity}.items()},
        tags={**own, **(tags or {})},
    )
    try:
        join_runs(tracker, run, [] if PARENT in (tags or {}) else recipes, data, kind)
    except BaseException:
        run.finish("FAILED")
        raise
    return run


def end_left(tracker: Tracker, spools: Path, *, resumed: str = "") -> None:
    """End the runs whose spools earlier processes left in this folder, but for the one that is resumed.

    Their metrics are sent first. What the server does not take now stays for the next process.
    """
    for path in sorted(spools.glob("*.jsonl")):
        if path.stem == resumed:
            continue
        try:
            run = tracker.open_run(path.stem)
            if run.run_id:
                _end(MetricSender(run, spools), "KILLED", GRACE_SECONDS)
        except RunNotFoundError as exc:
            logger.warning("%s; %s, its metrics, is removed", exc, path)
            path.unlink()
            path.with_suffix(MARK_SUFFIX).unlink(missing_ok=True)
        except (TrackingError, UsageError) as exc:
            logger.warning("an earlier run is not ended yet: %s", exc)


def describe(saved: SavedConfig, strategy: Any) -> dict[str, object]:
    """What a run is trained as, for its params; several manifests are one text, separated by blanks."""
    return {
        **asdict(saved.training),
        "data": " ".join(saved.training.data),
        **{f"model.{name}": value for name, value in asdict(saved.model).items()},
        "examples_per_step": saved.batch_size,
        "replicas": strategy.num_replicas_in_sync,
        "device": device_name(strategy),
        "tensorflow": tf.__version__,
    }


@contextmanager
def tracked(run: Run, spool: Path, sample: Callable[[], Mapping[str, float]] | None = None) -> Iterator[MetricSender]:
    """Deliver all metrics and end the run: FINISHED, KILLED (SIGTERM, Ctrl-C) or FAILED.

    `spool` is the folder for metrics that are under way; `sample` gives further ones, of the machine.
    """
    sender = MetricSender(run, spool, sample)
    try:
        yield sender
    except BaseException as exc:
        killed = isinstance(exc, (PreemptedError, KeyboardInterrupt))
        try:
            _end(sender, "KILLED" if killed else "FAILED", GRACE_SECONDS)
        except TrackingError as tracking:
            logger.warning("run %s could not be ended: %s", run.run_id, tracking)
        raise
    _end(sender, "FINISHED", CLOSE_SECONDS)


def _end(sender: MetricSender, status: str, seconds: float) -> None:
    """What is left of a run's metrics goes first, and its spool last, so that a run without a spool has ended."""
    sender.close(seconds)
    sender.run.finish(status)
    sender.forget()
