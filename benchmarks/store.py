"""Through an S3 store, two workers: a whole run and its write stage, against a plain copy of the same bytes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping

from benchmarks.datasets import raw_data, tiny_raw_data
from benchmarks.measure import Cost, median_ratio, module, packing, run, take_turns
from benchmarks.packed import Packed, read_packed
from benchmarks.report import Cell, Part, Table, Target, at_most
from benchmarks.settings import SHARDS_PER_UNIT, Bench
from benchmarks.surroundings import Store, object_store

_WORKERS = "2"
_SOURCE, _DESTINATION = "s3://raw/data", "s3://packed/data"
_COPY, _RUN, _STAGES, _TINY = (
    "plain copy (GET + PUT)",
    "packing run",
    "write stage alone",
    "packing run on a few records",
)


def measure(bench: Bench) -> Part:
    """All in turn, over the same rclone server."""
    raw = raw_data(bench, bench.sizes.store_units * SHARDS_PER_UNIT)
    with object_store(bench.scratch, raw) as store:
        warm = _run(store, _SOURCE)
        packed = read_packed(warm.result["manifest"], store.get)
        for path in tiny_raw_data(bench).iterdir():
            store.client.put_object(Bucket="raw", Key=f"tiny/{path.name}", Body=path.read_bytes())
        sizes = json.dumps(packed.sizes)
        copy = module("store_copy", _SOURCE, _DESTINATION, sizes, _WORKERS)
        stages = module("write_stage", _SOURCE, _DESTINATION, _WORKERS)
        costs = take_turns(
            bench.sizes.repeats,
            {
                _COPY: lambda: _fresh_run(store, copy),
                _RUN: lambda: _run(store, _SOURCE),
                _STAGES: lambda: _fresh_run(store, stages),
                _TINY: lambda: _run(store, "s3://raw/tiny"),
            },
        )
    table, targets = _report(costs, packed, sum(path.stat().st_size for path in raw.iterdir()))
    return Part(f"Through an S3 store, {_WORKERS} workers", tuple(targets), (table,))


def _run(store: Store, source: str) -> Cost:
    cost = _fresh_run(store, packing("run", source, _DESTINATION, "--workers", _WORKERS))
    found = read_packed(cost.result["manifest"], store.get)
    return Cost(cost.seconds, cost.cpu_seconds, {**cost.result, "solve_seconds": found.solve_seconds})


def _fresh_run(store: Store, command: list[str]) -> Cost:
    """Run it with nothing at the destination."""
    store.empty("packed")
    return run(command, store.environment)


def _report(costs: Mapping[str, list[Cost]], packed: Packed, raw_bytes: int) -> tuple[Table, list[Target]]:
    copy = [cost.result["seconds"] for cost in costs[_COPY]]
    whole = [cost.seconds for cost in costs[_RUN]]
    write = [cost.result["write_seconds"] for cost in costs[_STAGES]]
    start = [cost.seconds - cost.result["solve_seconds"] for cost in costs[_TINY]]
    solving = [cost.result["solve_seconds"] for cost in costs[_RUN]]
    net = [a - b - c for a, b, c in zip(whole, start, solving, strict=True)]
    named = {
        "plain copy (GET + PUT)": copy,
        "write stage alone, reading from the store": write,
        "`packing run`, all of it": whole,
        "of which its start": start,
        "of which solving": solving,
        "of which scanning, packing and writing": net,
    }
    rows: list[tuple[Cell, ...]] = [
        (name, statistics.median(seconds), median_ratio(seconds, copy)) for name, seconds in named.items()
    ]
    table = Table(
        f"{packed.sequences:,} sequences, {packed.packs:,} packs",
        ("what", "seconds", "over a plain copy"),
        tuple(rows),
        (
            f"{raw_bytes / 10**9:.3g} GB read, {sum(packed.sizes) / 10**9:.3g} GB written. rclone serves the store on "
            f"the same cores. The plain copy is {_WORKERS} processes with boto3, already started.",
        ),
    )
    return table, [
        at_most("S3: write stage over a plain copy of the same bytes", median_ratio(write, copy), 1.25, "x"),
        at_most("S3: whole `packing run` over a plain copy of the same bytes", median_ratio(whole, copy), 1.5, "x"),
    ]
