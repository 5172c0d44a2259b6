"""Partitions: what one of them takes to solve, and what it costs to solve them apart instead of all data at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.datasets import WIKIPEDIA, published_histogram, shuffled_parts
from benchmarks.report import Part, Table, Target, at_most, not_measured
from benchmarks.settings import MAX_SEQUENCES_PER_PACK, Bench, say
from packing.solvers import solve
from packing.types import Histogram

_SHUFFLE_SEED = 0
_LIMITS = {50_000: 0.05, 300_000: 0.01}
_ONE, _PRICE = "one partition of {:,} sequences", "partitions of {:,} sequences: packs above the global bound"


def measure(bench: Bench) -> Part:
    """Partitions of sequences drawn from the Wikipedia lengths, K 3."""
    title = f"Partitions, of Wikipedia lengths with K {MAX_SEQUENCES_PER_PACK}"
    histogram = published_histogram(bench.data, WIKIPEDIA)
    if histogram is None:
        reason = f"no {WIKIPEDIA}.json in the data folder"
        names = [(_ONE.format(bench.sizes.partition_sequences[0]), "at most 0.7 s and 1 pack above its bound")]
        names += [(_PRICE.format(size), f"at most {limit} %") for size, limit in _LIMITS.items()]
        return Part(title, tuple(not_measured(what, target, reason) for what, target in names), ())
    solve(histogram, MAX_SEQUENCES_PER_PACK)  # imports, which are no part of solving
    one, one_targets = _one_partition(bench, histogram)
    price, price_targets = _price(bench, histogram)
    return Part(title, (*one_targets, *price_targets), (one, price))


def _one_partition(bench: Bench, histogram: Histogram) -> tuple[Table, list[Target]]:
    size, seeds = bench.sizes.partition_sequences[0], bench.sizes.partition_seeds
    say(f"  {seeds} partitions of {size:,} sequences")
    parts = [next(shuffled_parts(histogram, size, size, seed)) for seed in range(seeds)]
    solved = [[_timed(part) for _ in range(bench.sizes.repeats)] for part in parts]
    seconds = [statistics.median(took for took, _, _ in again) for again in solved]
    gaps = [packs - bound for (_, packs, bound), *_ in solved]
    table = Table(
        "One partition alone, solver `optimal`",
        ("sequences", "partitions tried", "median seconds", "slowest seconds", "largest gap to its own bound"),
        ((size, seeds, statistics.median(seconds), max(seconds), max(gaps)),),
        (f"Seeds 0 to {seeds - 1}, one after the other in one process; of each, the median of {bench.sizes.repeats}.",),
    )
    name = _ONE.format(size)
    return table, [
        at_most(f"{name}: seconds, slowest of {seeds}", max(seconds), 0.7, "s"),
        at_most(f"{name}: packs above its own bound, at worst", max(gaps), 1, "packs"),
    ]


def _price(bench: Bench, histogram: Histogram) -> tuple[Table, list[Target]]:
    rows, targets = [], []
    for size, sequences in _samples(bench, histogram):
        say(f"  {sequences:,} sequences in partitions of {size:,}")
        parts = list(shuffled_parts(histogram, size, sequences, _SHUFFLE_SEED))
        solved = [_timed(part) for part in parts]
        packs = sum(packs for _, packs, _ in solved)
        bound = solve(_sum(parts), MAX_SEQUENCES_PER_PACK).lower_bound
        above = 100 * (packs - bound) / bound
        seconds = sum(took for took, _, _ in solved)
        rows.append((size, len(parts), sequences, packs, bound, packs - bound, above, seconds))
        if size in _LIMITS:
            targets.append(at_most(_PRICE.format(size), above, _LIMITS[size], "%"))
    table = Table(
        "The price of partitions, solver `optimal`",
        ("sequences a partition", "partitions", "sequences", "packs", "global bound", "above", "above %", "seconds"),
        tuple(rows),
        (
            f"The sequences of the histogram in random order (seed {_SHUFFLE_SEED}), divided and solved one after the "
            "other. The smallest partitions are tried on the first of the shuffled sequences only; each global bound "
            "is that of the sequences in its row.",
        ),
    )
    return table, targets


def _samples(bench: Bench, histogram: Histogram) -> Iterator[tuple[int, int]]:
    total = bench.sizes.shuffled_sequences or histogram.sequences
    smallest = min(bench.sizes.partition_sequences)
    for size in bench.sizes.partition_sequences:
        yield size, bench.sizes.smallest_shuffled_sequences if size == smallest else total


def _timed(part: Histogram) -> tuple[float, int, int]:
    """Seconds, packs and lower bound."""
    started = time.perf_counter()
    solution = solve(part, MAX_SEQUENCES_PER_PACK)
    return time.perf_counter() - started, solution.packs, solution.lower_bound


def _sum(parts: list[Histogram]) -> Histogram:
    return Histogram(tuple(np.sum([part.counts for part in parts], axis=0).tolist()))
