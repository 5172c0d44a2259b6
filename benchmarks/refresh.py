"""An unchanged refresh: how long it takes, and whether it reads raw data, on local disk and through an S3 store.

The S3 server's log names every request. On disk, the kernel notes when a file was last read (its access time), at the
latest when it is read for the first time after it was written; so the files are first made to look newly written.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.datasets import raw_data
from benchmarks.measure import fresh, packing, run
from benchmarks.report import Part, Table, Target, at_most, not_measured
from benchmarks.settings import SHARDS_PER_UNIT, Bench, say
from benchmarks.surroundings import object_store, plain_surroundings

_WORKERS = "2"
_SOURCE, _DESTINATION = "s3://raw/data", "s3://packed/data"
_LOCAL, _S3 = "local disk", "S3"


def measure(bench: Bench) -> Part:
    """A first and a second run of each."""
    raw = raw_data(bench, bench.sizes.throughput_units * SHARDS_PER_UNIT)
    rows, targets = [], []
    for place, (first, second) in ((_LOCAL, _local(bench, raw)), (_S3, _s3(bench, raw))):
        rows.append((place, "first run", *first))
        rows.append((place, "unchanged refresh", *second))
        targets += _targets(place, first, second)
    table = Table(
        f"`packing run --workers {_WORKERS}` twice on {len(list(raw.iterdir()))} raw shards",
        ("where", "run", "seconds", "raw data read"),
        tuple(rows),
        (
            "Seconds with the start of the program. Raw data read: on disk, files whose access time changed (empty "
            "where the file system keeps none); on S3, requests for the content of raw objects in the server's log.",
        ),
    )
    return Part("Unchanged refresh", tuple(targets), (table,))


def _targets(place: str, first: tuple[float, int | None], second: tuple[float, int | None]) -> list[Target]:
    what = f"unchanged refresh, {place}: reads of raw data"
    seconds = at_most(f"unchanged refresh, {place}", second[0], 3, "s")
    # A count that does not see the first run's reads says nothing about the second's.
    if not first[1] or second[1] is None:
        return [seconds, not_measured(what, "at most 0", "this file system keeps no access times")]
    return [seconds, at_most(what, second[1], 0, "reads")]


def _local(bench: Bench, raw: Path) -> list[tuple[float, int | None]]:
    out = fresh(bench.scratch / "out")
    return [_local_run(raw, out, again=again) for again in (False, True)]


def _local_run(raw: Path, out: Path, *, again: bool) -> tuple[float, int | None]:
    say(f"  {_LOCAL}, {'unchanged' if again else 'first run'}")
    files = list(raw.iterdir())
    for file in files:
        os.utime(file, ns=(0, file.stat().st_mtime_ns))
    cost = run(packing("run", str(raw), str(out), "--workers", _WORKERS), plain_surroundings())
    _expect(unchanged=cost.result["unchanged"], again=again)
    return cost.seconds, sum(file.stat().st_atime_ns != 0 for file in files)


def _s3(bench: Bench, raw: Path) -> list[tuple[float, int | None]]:
    found: list[tuple[float, int | None]] = []
    with object_store(bench.scratch, raw, log_requests=True) as store:
        for again in (False, True):
            say(f"  {_S3}, {'unchanged' if again else 'first run'}")
            before = store.reads("raw")
            cost = run(packing("run", _SOURCE, _DESTINATION, "--workers", _WORKERS), store.environment)
            _expect(unchanged=cost.result["unchanged"], again=again)
            found.append((cost.seconds, store.reads("raw") - before))
    return found


def _expect(*, unchanged: bool, again: bool) -> None:
    if unchanged != again:
        raise RuntimeError(f"expected a run that {'changes nothing' if again else 'packs'}, got unchanged={unchanged}")
