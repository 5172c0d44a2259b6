"""Run the benchmarks, print their tables and keep them as `results.json` and `results.md`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import growth, page, partitions, refresh, solvers, store, throughput, training
from benchmarks.datasets import describe_raw_data
from benchmarks.machine import machine_facts
from benchmarks.report import Part, markdown, write_report
from benchmarks.settings import FULL, QUICK, REPOSITORY, Bench, say

PARTS: dict[str, Callable[[Bench], Part]] = {
    "solvers": solvers.measure,
    "partitions": partitions.measure,
    "throughput": throughput.measure,
    "store": store.measure,
    "growth": growth.measure,
    "refresh": refresh.measure,
    "training": training.measure,
    "page": page.measure,
}


def main() -> None:
    """Measure what was asked for."""
    options = _options()
    sizes = QUICK if options.quick else FULL
    if options.unit_megabytes:
        sizes = replace(sizes, unit_bytes=options.unit_megabytes * 10**6)
    parts = {}
    with tempfile.TemporaryDirectory(prefix="stowage-benchmarks-", dir=options.scratch) as scratch:
        bench = Bench(sizes, options.data.absolute(), Path(scratch))
        for name in options.only or PARTS:
            say(name)
            started = time.perf_counter()
            parts[name] = replace(PARTS[name](bench), seconds=time.perf_counter() - started)
        settings = {"quick": options.quick, **asdict(sizes), "raw data": describe_raw_data(bench.data)}
    machine = machine_facts()
    if options.output:
        write_report(options.output, machine, settings, parts)
    sys.stdout.write(markdown(machine, settings, parts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART", help=f"{', '.join(PARTS)}; repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, its figures mean nothing")
    parser.add_argument(
        "--data",
        type=Path,
        default=REPOSITORY.parent / "shared" / "data",
        help="folder with histograms/ and wikipedia/; without it, made-up records [../shared/data]",
    )
    parser.add_argument("--unit-megabytes", type=int, metavar="N", help="raw data comes in units of N MB")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to measure [that of temporary files]")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write the results [only printed]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
