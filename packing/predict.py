"""A dry run: what a refresh would make of the raw shards, how long it would take and what it would cost.

Every stage of the refresh runs on an overlay, so nothing is stored, the cached shard indexes neither. Shards that have
an index are known; the others are read as far as a sample goes. If the sample holds all of them, the recipe is the one
that the refresh would come to; otherwise the lengths found are scaled to the whole, and solved as one histogram.

The sample is packed as well, in memory: that gives the bytes of a pack and the pace of this machine. Storing packed
shards is not timed (a refresh stores one while it makes the next).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from packing.admission import admit
from packing.commit import find_current, find_listed, find_written
from packing.errors import InputError
from packing.listing import list_raw_shards
from packing.overlay import Overlay
from packing.parallel import StageMap, serial
from packing.partition import assign_partitions
from packing.pipeline import check_request
from packing.ports import Storage
from packing.recipe import contents_of, dataset_input_id
from packing.report import describe_gap
from packing.sample import Sample, take_sample
from packing.scan import read_summary, scan_new_shard
from packing.solve import histogram_of, solve_histogram, solve_partition, solve_recipe
from packing.types import Histogram, Manifest, Parameters, RawShard, Recipe, ShardSummary, segments_of
from packing.write import partition_parts

SAMPLE_BYTES = 32 * 1024 * 1024
FIGURES = ("sequences", "packs", "lower_bound", "gap", "packing_efficiency", "packing_factor")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Prediction:
    """What a refresh would do; the figures of a recipe as in its statistics.

    `exact`: they are what the refresh comes to, as every record is known; otherwise they are estimates from
    `sampled_bytes` stored bytes in `sampled_shards` shards, of `bytes` in `shards`. `bytes_read` of them were read now,
    the others when they were indexed. `output_bytes` are those of the whole packed dataset, an estimate unless every
    record was read now. `seconds` is always an estimate, and so is `cost`, in the currency of the price; it is None
    without one. `unchanged`: the dataset exists already.
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


@dataclass(frozen=True)
class Survey:
    """What is known of the raw shards: summaries of those with an index, and of those sampled now, in `seconds`.

    `new` are the shards without an index; if there are none, the sample is of shards that are known.
    """

    shards: tuple[RawShard, ...]
    new: tuple[RawShard, ...]
    known: list[ShardSummary]
    sampled: list[ShardSummary]
    sample: Sample
    seconds: float

    @property
    def bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    @property
    def sampled_bytes(self) -> int:
        return self.bytes - sum(shard.size for shard in self.new) + (self.sample.bytes if self.new else 0)

    @property
    def exact(self) -> bool:
        return self.sample.whole or not self.new

    @property
    def summaries(self) -> list[ShardSummary]:
        """Each shard that was looked at once, sorted by name."""
        return sorted([*self.known, *(self.sampled if self.new else ())], key=lambda summary: summary.shard.name)


@dataclass(frozen=True)
class Trial:
    """The sample packed in memory: `bytes` of its packs, and the seconds from its first record to its last pack."""

    packs: int
    bytes: int
    seconds: float


def predict(
    storage: Storage,
    lookups: StageMap,
    source: str,
    destination: str,
    parameters: Parameters,
    *,
    workers: int,
    max_rejected: int = 0,
    time_limit: float | None = None,
    price_per_hour: float | None = None,
    sample_bytes: int = SAMPLE_BYTES,
) -> Prediction:
    """The outcome of `packing.pipeline.refresh` with `workers` at a time, without storing anything.

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
    survey = _look(store, lookups, shards, destination, parameters, max_rejected, sample_bytes)
    allow = partial(admit, store, parameters=parameters, destination=destination, max_rejected=max_rejected)
    summaries = allow(survey.summaries)
    if survey.exact and (
        current := find_current(store, destination, dataset_input_id(parameters, contents_of(summaries)))
    ):
        seconds = time.monotonic() - started
        return _unchanged(*current, shards, seconds, price_per_hour, bytes_read=survey.sample.bytes_read)
    solving = time.monotonic()
    if survey.exact:
        recipe = solve_recipe(store, serial(store), destination, parameters, summaries, time_limit)
        left = _left_to_write(store, destination, recipe)
    else:
        recipe = solve_histogram(parameters, _whole_histogram(survey, summaries, parameters), time_limit)
        left = Left(recipe.statistics["packs"], 1.0, _estimated_partitions(survey, summaries, parameters), 0)
    solve_seconds = time.monotonic() - solving
    trial = _pack(store, allow(survey.sampled), destination, parameters)
    seconds = solve_seconds + _reading_seconds(survey, trial, left, workers)
    return Prediction(
        **_figures(recipe),
        output_bytes=left.kept_bytes + round(trial.bytes / trial.packs * left.packs),
        seconds=seconds,
        cost=_cost(seconds, price_per_hour),
        sampled_shards=len(survey.summaries),
        shards=len(shards),
        sampled_bytes=survey.sampled_bytes,
        bytes=survey.bytes,
        bytes_read=survey.sample.bytes_read,
        exact=survey.exact,
        unchanged=False,
    )


def _look(
    store: Overlay,
    lookups: StageMap,
    shards: Sequence[RawShard],
    destination: str,
    parameters: Parameters,
    max_rejected: int,
    sample_bytes: int,
) -> Survey:
    cached = list(lookups(partial(read_summary, destination=destination), shards))
    new = [shard for shard, summary in zip(shards, cached, strict=True) if summary is None]
    sample = take_sample(store, new or shards, sample_bytes, parameters.seed)
    scan = partial(scan_new_shard, store, destination=destination, max_rejected=max_rejected)
    sampled, seconds = _timed(lambda: [scan(shard) for shard in sample.shards])
    known = [summary for summary in cached if summary]
    return Survey(tuple(shards), tuple(new), known, sampled, sample, seconds)


def _timed(work: Callable[[], Value]) -> tuple[Value, float]:
    """What `work` gives, and the seconds that it takes when its machine code is there and its memory in use."""
    work()
    started = time.monotonic()
    return work(), time.monotonic() - started


def _pack(store: Overlay, sampled: Sequence[ShardSummary], destination: str, parameters: Parameters) -> Trial:
    """Pack the sampled shards as a refresh of them alone would."""
    solved = [
        (solve_partition(store, members, destination=destination, parameters=parameters), members)
        for members in assign_partitions(sampled, parameters.partition_bytes)
    ]
    if not solved:
        raise InputError(f"expected at least one sequence in {len(sampled)} raw shards, found none; check SOURCE")

    def pack() -> int:
        size = 0
        for partition, members in solved:
            with ExitStack() as borrowed:
                size += sum(
                    len(part.content) for part in partition_parts(store, partition, members, parameters, borrowed)
                )
        return size

    size, seconds = _timed(pack)
    return Trial(sum(partition.packs for partition, _ in solved), size, seconds)


def _whole_histogram(survey: Survey, summaries: Sequence[ShardSummary], parameters: Parameters) -> Histogram:
    """The lengths of the known shards, and those of the sampled ones scaled to all new shards, by stored bytes."""
    sampled = {summary.shard.name for summary in survey.sampled}
    known, found = (
        histogram_of(
            segments_of(s for s in summaries if (s.shard.name in sampled) == of_sample), parameters.max_sequence_length
        )
        for of_sample in (False, True)
    )
    scaled = scale(found, 1 / survey.sample.share)
    return Histogram(tuple(a + b for a, b in zip(known.counts, scaled.counts, strict=True)))


def scale(histogram: Histogram, factor: float) -> Histogram:
    """`factor` times as many sequences, rounded; each count is off by less than one from its own share."""
    exact = np.array(histogram.counts) * factor
    counts = np.floor(exact).astype(np.int64)
    left = round(histogram.sequences * factor) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return Histogram(tuple(counts.tolist()))


@dataclass(frozen=True)
class Left:
    """What there is to write: `packs` in `partitions`, made from this `share` of the sequences.

    `kept_bytes` are in packed shards that the store has already.
    """

    packs: int
    share: float
    partitions: int
    kept_bytes: int


def _left_to_write(store: Overlay, destination: str, recipe: Recipe) -> Left:
    written = find_written(store, destination, recipe)
    missing = [partition for partition in recipe.partitions if partition.digest not in written]
    return Left(
        packs=sum(partition.packs for partition in missing),
        share=sum(partition.sequences for partition in missing) / recipe.histogram.sequences,
        partitions=len(missing),
        kept_bytes=sum(stored.shard.bytes for shards in written.values() for stored in shards),
    )


def _estimated_partitions(survey: Survey, summaries: Sequence[ShardSummary], parameters: Parameters) -> int:
    known = sum(summary.compact_bytes for summary in survey.known)
    found = sum(summary.compact_bytes for summary in summaries) - known
    return math.ceil((known + found / survey.sample.share) / parameters.partition_bytes)


def _reading_seconds(survey: Survey, trial: Trial, left: Left, workers: int) -> float:
    """New shards are read for the scan, and those of what is left to write once more, at the pace of the sample."""
    sample = survey.sample
    scan, write = ((sample.seconds + seconds) / sample.bytes for seconds in (survey.seconds, trial.seconds))
    new = sum(shard.size for shard in survey.new)
    scanning = new * scan / max(1, min(workers, len(survey.new)))
    return scanning + left.share * survey.bytes * write / max(1, min(workers, left.partitions))


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
        **_figures(recipe),
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


def _figures(recipe: Recipe) -> dict[str, Any]:
    return {name: recipe.statistics[name] for name in FIGURES}


def _cost(seconds: float, price_per_hour: float | None) -> float | None:
    return None if price_per_hour is None else seconds / 3600 * price_per_hour


def prediction_rows(prediction: Prediction) -> list[tuple[str, str]]:
    """The prediction in words, for people."""
    p = prediction
    about = "" if p.exact else "about "
    basis = "every record" if p.exact else f"a sample of {p.sampled_bytes:,} of {p.bytes:,} bytes"
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
    done = "nothing changed: the packed dataset exists" if p.unchanged else "nothing was stored: this was a dry run"
    return [*rows, ("result", done)]
