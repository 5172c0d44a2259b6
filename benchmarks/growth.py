"""Growth: what more data costs in time and memory, with one worker.

The memory of a worker is bounded by the largest partition, which by default is as large as much data; so small
partitions show what grows with the data, and default ones show how much a worker takes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from benchmarks.datasets import raw_data, tiny_raw_data
from benchmarks.measure import fresh, packing, run_watched
from benchmarks.report import Part, Table, at_most
from benchmarks.settings import SHARDS_PER_UNIT, Bench, say
from benchmarks.surroundings import plain_surroundings
from packing.types import PARTITION_BYTES

_GB = 10**9
_FLAT = 1.25  # no two runs are alike, and a little is kept of each sequence (its length) and of each raw shard


@dataclass(frozen=True)
class _Run:
    data: str
    partition_bytes: int
    raw_bytes: int
    sequences: int
    seconds: float
    resident: int
    own: int


def measure(bench: Bench) -> Part:
    """`packing run --workers 1` on more and more of the same shards."""
    _run(bench, 0, PARTITION_BYTES)  # compiles what is to be compiled once per machine
    units, small = bench.sizes.growth_units, bench.sizes.unit_bytes // 8
    runs = [_run(bench, count, small) for count in units]
    usual = _run(bench, units[-1], PARTITION_BYTES)
    table = Table(
        "`packing run --workers 1` on local disk",
        (
            "data",
            "partition MB",
            "raw GB",
            "sequences",
            "seconds",
            "seconds a GB",
            "peak own memory, GB",
            "peak resident, GB",
        ),
        tuple(
            (
                run.data,
                run.partition_bytes // 10**6,
                run.raw_bytes / _GB,
                run.sequences,
                run.seconds,
                run.seconds / run.raw_bytes * _GB,
                run.own / _GB,
                run.resident / _GB,
            )
            for run in (*runs, usual)
        ),
        (
            "Seconds with the start of the program and solving. Memory is that of the largest process: its own "
            "(anonymous and shared, sampled every 20 ms), and all that was resident, mapped files included. The last "
            "row has the default `--partition-bytes`; the others a smaller one, so that all have many partitions.",
        ),
    )
    name = f"peak own memory of a worker: {usual.data} data"
    targets = (
        at_most(f"{name}, default partitions", usual.own / _GB, 1.5, "GB"),
        at_most(f"{name} over {runs[0].data}", runs[-1].own / runs[0].own, _FLAT, "x"),
    )
    return Part("Growth of time and memory", targets, (table,))


def _run(bench: Bench, units: int, partition_bytes: int) -> _Run:
    say(f"  {units} x {bench.sizes.unit_bytes / _GB:.3g} GB in partitions of {partition_bytes // 10**6} MB")
    raw = raw_data(bench, units * SHARDS_PER_UNIT) if units else tiny_raw_data(bench)
    out = fresh(bench.scratch / "out")
    os.sync()
    options = ("--workers", "1", "--partition-bytes", str(partition_bytes))
    cost, memory = run_watched(packing("run", str(raw), str(out), *options), plain_surroundings())
    data = f"{units // bench.sizes.growth_units[0]}x"
    size = sum(path.stat().st_size for path in raw.iterdir())
    return _Run(data, partition_bytes, size, cost.result["sequences"], cost.seconds, memory.resident, memory.own)
