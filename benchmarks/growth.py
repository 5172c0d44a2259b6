"""Growth: what more data costs in time and memory, with one worker."""

from __future__ import annotations

import os
from dataclasses import dataclass

from benchmarks.datasets import raw_data, tiny_raw_data
from benchmarks.measure import fresh, packing, run_watched
from benchmarks.report import Part, Table, at_most
from benchmarks.settings import SHARDS_PER_UNIT, Bench, say
from benchmarks.surroundings import plain_surroundings

_GB = 10**9
# What one may call flat over 16 times the data: runs differ, and a few bytes a sequence (lengths, plan) stay.
_FLAT = 1.25


@dataclass(frozen=True)
class _Run:
    units: int
    raw_bytes: int
    sequences: int
    seconds: float
    resident: int
    own: int


def measure(bench: Bench) -> Part:
    """`packing run --workers 1` on more and more of the same shards."""
    _run(bench, 0)  # compiles what is to be compiled once per machine
    runs = [_run(bench, units) for units in bench.sizes.growth_units]
    first, last = runs[0], runs[-1]
    factor = last.units // first.units
    table = Table(
        "`packing run --workers 1` on local disk",
        ("data", "raw GB", "sequences", "seconds", "seconds a GB", "peak own memory, GB", "peak resident, GB"),
        tuple(
            (
                f"{run.units // first.units}x",
                run.raw_bytes / _GB,
                run.sequences,
                run.seconds,
                run.seconds / run.raw_bytes * _GB,
                run.own / _GB,
                run.resident / _GB,
            )
            for run in runs
        ),
        (
            "Seconds with the start of the program and solving. Memory is that of the largest process: its own "
            "(anonymous and shared, sampled every 20 ms), and all that was resident, mapped files included.",
        ),
    )
    targets = (
        at_most(f"peak own memory of a worker, 1x to {factor}x data", max(run.own for run in runs) / _GB, 1.5, "GB"),
        at_most(f"peak own memory at {factor}x data over 1x", last.own / first.own, _FLAT, "x"),
    )
    return Part("Growth of time and memory", targets, (table,))


def _run(bench: Bench, units: int) -> _Run:
    say(f"  {units} x {bench.sizes.unit_bytes / _GB:.3g} GB")
    raw = raw_data(bench, units * SHARDS_PER_UNIT) if units else tiny_raw_data(bench)
    out = fresh(bench.scratch / "out")
    os.sync()
    cost, memory = run_watched(packing("run", str(raw), str(out), "--workers", "1"), plain_surroundings())
    size = sum(path.stat().st_size for path in raw.iterdir())
    return _Run(units, size, cost.result["sequences"], cost.seconds, memory.resident, memory.own)
