"""A dry run: what a refresh would make of the raw shards, how long it would take and what it would cost.

Every stage of the refresh runs on an overlay, so nothing is stored, the cached shard indexes neither. Shards that have
an index are known; the others are read as far as a sample goes (`packing.survey`). If the sample holds all of them, the
recipe is the one that the refresh would come to (`packing.outlook`); otherwise it is estimated (`packing.estimate`).

What is left to write is tried out in memory (`packing.trial`): that gives the bytes of a pack and the pace of this
machine. Storing packed shards is not timed (a refresh stores one while it makes the next).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packing.commit import find_current, find_listed
from packing.estimate import estimate
from packing.listing import list_raw_shards
from packing.outlook import Left, solve_known
from packing.overlay import Overlay
from packing.parallel import StageMap
from packing.pipeline import check_request
from packing.ports import Storage
from packing.recipe import contents_of, dataset_input_id
from packing.report import describe_gap
from packing.survey import Request, Survey, look
from packing.trial import Trial, try_out
from packing.types import Manifest, Parameters, RawShard, Recipe

SAMPLE_BYTES = 32 * 1024 * 1024
FIGURES = ("sequences", "packs", "lower_bound", "gap", "packing_efficiency", "packing_factor")


@dataclass(frozen=True)
class Prediction:
    """What a refresh would do; the figures of a recipe as in its statistics.

    They rest on `sampled_bytes` stored bytes in `sampled_shards` shards, of `bytes` in `shards`. `bytes_read` of them
    were read now, the others when they were indexed. `exact`: the figures are what the refresh comes to, as every
    record is known and no time limit ended a search, which might end elsewhere in the refresh; otherwise they are
    estimates. `output_bytes` are those of the whole packed dataset, an estimate unless `exact` and every record of what
    is left to write was read now. `seconds` is always an estimate, and so is `cost`, in the currency of the price; it
    is None without one. `unchanged`: the dataset exists already.
    """

    sequences: int
    packs: int
    lower_bound: int
    gap: int
    packing_efficiency: float
    packing_factor: float
    output_bytes: int
    seconds: float
    cost: float | None
    sampled_shards: int
    shards: int
    sampled_bytes: int
    bytes: int
    bytes_read: int
    exact: bool
    unchanged: bool


def predict(
    storage: Storage,
    lookups: StageMap,
    source: str,
    destination: str,
    parameters: Parameters,
    *,
    workers: int,
    solvers: int,
    max_rejected: int = 0,
    time_limit: float | None = None,
    price_per_hour: float | None = None,
    sample_bytes: int = SAMPLE_BYTES,
) -> Prediction:
    """The outcome of `packing.pipeline.refresh`, without storing anything.

    It would scan and write with `workers` at a time, and solve so many partitions at a time as there are `solvers`.
    `lookups` maps many small reads (`packing.parallel`); `price_per_hour` is that of all workers together. Raises what
    the refresh would, as far as the sample shows it.
    """
    check_request(source, destination, max_rejected, time_limit)
    started = time.monotonic()
    shards = list_raw_shards(storage, source)
    listed = find_listed(storage, destination, parameters, shards)
    if listed and len(listed[0].rejected) <= max_rejected:
        return _unchanged(*listed, shards, time.monotonic() - started, price_per_hour)
    store = Overlay(storage)
    request = Request(destination, parameters, solvers, max_rejected, time_limit, sample_bytes)
    survey = look(store, lookups, shards, request)
    if survey.exact and (
        current := find_current(store, destination, dataset_input_id(parameters, contents_of(survey.whole)))
    ):
        seconds = time.monotonic() - started
        return _unchanged(*current, shards, seconds, price_per_hour, bytes_read=survey.scanned.sample.bytes_read)
    outlook = solve_known(store, survey, request) if survey.exact else estimate(lookups, survey, request)
    left = outlook.left
    trial = try_out(store, survey, left, request) if left.packs else None
    seconds = outlook.seconds + _scanning_seconds(survey, workers)
    output_bytes, bytes_read = left.kept_bytes, survey.scanned.sample.bytes_read
    if trial:
        seconds += _writing_seconds(left, trial, workers)
        output_bytes += round(trial.bytes / trial.packs * left.packs)
        bytes_read += trial.bytes_read
    return Prediction(
        **_figures(outlook.statistics),
        output_bytes=output_bytes,
        seconds=seconds,
        cost=_cost(seconds, price_per_hour),
        sampled_shards=len(survey.known) + len(survey.scanned.summaries),
        shards=len(shards),
        sampled_bytes=survey.sampled_bytes,
        bytes=survey.bytes,
        bytes_read=bytes_read,
        exact=outlook.exact,
        unchanged=False,
    )


def _scanning_seconds(survey: Survey, workers: int) -> float:
    """New shards are read at the pace of their sample; none of it means that they are empty."""
    scanned = survey.scanned
    if not scanned.sample.bytes:
        return scanned.seconds
    pace = (scanned.sample.seconds + scanned.seconds) / scanned.sample.bytes
    return survey.new_bytes * pace / max(1, min(workers, len(survey.new)))


def _writing_seconds(left: Left, trial: Trial, workers: int) -> float:
    """Raw shards of what is left are read once more, at the pace of the trial."""
    return left.raw_bytes * trial.seconds / trial.raw_bytes / max(1, min(workers, left.partitions))


def _unchanged(
    recipe: Recipe,
    manifest: Manifest,
    shards: Sequence[RawShard],
    seconds: float,
    price_per_hour: float | None,
    *,
    bytes_read: int = 0,
) -> Prediction:
    size = sum(shard.size for shard in shards)
    return Prediction(
        **_figures(recipe.statistics),
        output_bytes=manifest.bytes,
        seconds=seconds,
        cost=_cost(seconds, price_per_hour),
        sampled_shards=len(shards),
        shards=len(shards),
        sampled_bytes=size,
        bytes=size,
        bytes_read=bytes_read,
        exact=True,
        unchanged=True,
    )


def _figures(statistics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: statistics[name] for name in FIGURES}


def _cost(seconds: float, price_per_hour: float | None) -> float | None:
    return None if price_per_hour is None else seconds / 3600 * price_per_hour


def prediction_rows(prediction: Prediction) -> list[tuple[str, str]]:
    """The prediction in words, for people."""
    p = prediction
    about = "" if p.exact else "about "
    if p.exact:
        basis = "every record"
    elif p.sampled_bytes == p.bytes:
        basis = "every record; the time limit ended a search"
    else:
        basis = f"a sample of {p.sampled_bytes:,} of {p.bytes:,} bytes"
    rows = [
        ("based on", f"{basis}, {p.sampled_shards:,} of {p.shards:,} raw shards; {p.bytes_read:,} bytes read now"),
        ("sequences", f"{about}{p.sequences:,}"),
        ("packs", f"{about}{p.packs:,}"),
        ("lower bound", f"{about}{p.lower_bound:,}"),
        ("gap", f"{p.gap:,} ({describe_gap(p.gap, p.packs)})" if p.exact else "known only after the refresh"),
        ("packing efficiency", f"{about}{p.packing_efficiency:.4%} real tokens"),
        ("packing factor", f"{about}{p.packing_factor:.4f} sequences a pack, so many times faster than padded"),
        ("output", f"about {p.output_bytes / 1e6:,.1f} MB"),
        ("duration", f"about {p.seconds:,.1f} s, an estimate from the pace of the sample"),
    ]
    if p.cost is not None:
        rows.append(("cost", f"about {p.cost:,.2f}"))
    if p.unchanged:
        return [*rows, ("result", "the packed dataset exists already: a refresh would write nothing")]
    return [*rows, ("result", "nothing was stored: this was a dry run")]
