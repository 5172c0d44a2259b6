"""Throughput on local disk with one core: Stowage, the obvious packer, TensorFlow's writer and a plain copy.

What a run of Stowage costs in all is divided here: its start (what a run on a few records takes), solving (as its
recipe says), and the rest, which is scanning, packing and writing.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.baseline import VARIANTS
from benchmarks.datasets import raw_data, tiny_raw_data
from benchmarks.measure import Cost, fresh, median_ratio, module, one_core, packing, run, take_turns
from benchmarks.packed import Packed, read_packed
from benchmarks.plain import copy_locally
from benchmarks.report import Cell, Part, Table, Target, at_least, at_most, not_measured
from benchmarks.settings import SHARDS_PER_UNIT, Bench
from benchmarks.surroundings import plain_surroundings

_GB = 10**9
_OURS, _TINY, _SCAN, _TINY_SCAN, _PLAIN, _TENSORFLOW = (
    "packing run",
    "packing run on a few records",
    "packing scan",
    "packing scan of a few records",
    "plain read and write",
    "tf.io.TFRecordWriter copying",
)


@dataclass(frozen=True)
class _Data:
    """`raw` is packed by all, `sample` by the slow ones too, `largest` is scanned, `tiny` shows what starting costs."""

    raw: Path
    sample: Path
    largest: Path
    tiny: Path


def measure(bench: Bench) -> Part:
    """Everything in turn, each on the same core."""
    data = _Data(
        raw_data(bench, bench.sizes.throughput_units * SHARDS_PER_UNIT),
        raw_data(bench, bench.sizes.baseline_shards),
        raw_data(bench, max(bench.sizes.growth_units) * SHARDS_PER_UNIT),
        tiny_raw_data(bench),
    )
    with one_core():
        # Also compiles what is to be compiled once per machine.
        packed, sample = _pack(bench, data.raw), _pack(bench, data.sample)
        costs = take_turns(bench.sizes.repeats, _measures(bench, data, packed, sample))
    return Part(
        "Throughput on local disk, one core",
        tuple(_targets(costs, data, packed)),
        (_whole_run(costs, data, packed), _cpu(costs, packed), _wall(costs, data, packed)),
    )


def _pack(bench: Bench, source: Path) -> Packed:
    destination = fresh(bench.scratch / "packed" / source.name)
    cost = run(packing("run", str(source), str(destination), "--workers", "1"), plain_surroundings())
    return read_packed(cost.result["manifest"])


def _measures(bench: Bench, data: _Data, packed: Packed, sample: Packed) -> dict[str, Callable[[], Cost]]:
    out = bench.scratch / "out"
    environment = plain_surroundings()
    strategies = bench.scratch / "strategies.json"
    strategies.write_text(json.dumps(list(sample.strategies)))

    def ours(source: Path) -> Cost:
        cost = run(packing("run", str(source), str(fresh(out)), "--workers", "1"), environment)
        found = read_packed(cost.result["manifest"])
        return Cost(cost.seconds, cost.cpu_seconds, {"solve_seconds": found.solve_seconds})

    def scan(source: Path) -> Cost:
        return run(packing("scan", str(source), "--workers", "1"), environment)

    def plain() -> Cost:
        return Cost(copy_locally(data.raw, packed.sizes, fresh(out) / "plain"), 0.0, {})

    def baseline(variant: str) -> Cost:
        return run(
            module("baseline", str(data.sample), str(strategies), str(fresh(out) / "packed"), variant), environment
        )

    def tensorflow() -> Cost:
        folder = bench.scratch / "packed" / data.sample.name
        return run(module("record_copy", str(folder), str(fresh(out) / "copy")), environment)

    measures: dict[str, Callable[[], Cost]] = {
        _PLAIN: plain,
        _OURS: lambda: ours(data.raw),
        _TINY: lambda: ours(data.tiny),
        _SCAN: lambda: scan(data.largest),
        _TINY_SCAN: lambda: scan(data.tiny),
        **{variant: lambda variant=variant: baseline(variant) for variant in VARIANTS},  # type: ignore[misc]
    }
    if bench.sizes.with_tensorflow and importlib.util.find_spec("tensorflow"):
        measures[_TENSORFLOW] = tensorflow
    return measures


def _net(costs: Mapping[str, list[Cost]], value: Callable[[Cost], float]) -> list[float]:
    """Scanning, packing and writing alone, each turn: what a run costs, without its start and without solving."""
    whole, start = _without_solving(costs[_OURS], value), _without_solving(costs[_TINY], value)
    return [a - b for a, b in zip(whole, start, strict=True)]


def _without_solving(costs: Sequence[Cost], value: Callable[[Cost], float]) -> list[float]:
    return [value(cost) - cost.result["solve_seconds"] for cost in costs]


def _wall_of(cost: Cost) -> float:
    return cost.seconds


def _cpu_of(cost: Cost) -> float:
    return cost.cpu_seconds


def _targets(costs: Mapping[str, list[Cost]], data: _Data, packed: Packed) -> list[Target]:
    net = _net(costs, _cpu_of) + _net(costs, _wall_of) + _scan_seconds(costs)
    if min(net) <= 0:
        return [not_measured("throughput", "above 0", "the data is too small to tell its cost from a program's start")]
    ours = [seconds / packed.sequences for seconds in _net(costs, _cpu_of)]
    plain = [cost.seconds for cost in costs[_PLAIN]]
    ratios = [
        at_least(
            f"CPU time of the protobuf-object packer ({variant}) over scanning, packing and writing",
            median_ratio(_per_sequence(costs[variant]), ours),
            50,
            "x",
        )
        for variant in VARIANTS
    ]
    return [
        *ratios,
        at_most(
            "wall time of scanning, packing and writing over a plain read and write of the same bytes",
            median_ratio(_net(costs, _wall_of), plain),
            1.5,
            "x",
        ),
        at_least("scan, CRC checks and validation on, from the page cache", _scan_rate(costs, data), 2, "GB/s"),
    ]


def _per_sequence(costs: Sequence[Cost]) -> list[float]:
    return [cost.result["cpu_seconds"] / cost.result["sequences"] for cost in costs]


def _scan_rate(costs: Mapping[str, list[Cost]], data: _Data) -> float:
    return _bytes_of(data.largest) / _GB / statistics.median(_scan_seconds(costs))


def _scan_seconds(costs: Mapping[str, list[Cost]]) -> list[float]:
    """Scanning alone, each turn, without the program's start."""
    return [whole.seconds - tiny.seconds for whole, tiny in zip(costs[_SCAN], costs[_TINY_SCAN], strict=True)]


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _whole_run(costs: Mapping[str, list[Cost]], data: _Data, packed: Packed) -> Table:
    solving = [cost.result["solve_seconds"] for cost in costs[_OURS]]
    rows: list[tuple[Cell, ...]] = [
        ("the whole run", _median(costs[_OURS], _wall_of), _median(costs[_OURS], _cpu_of)),
        (
            "of which its start",
            statistics.median(_without_solving(costs[_TINY], _wall_of)),
            statistics.median(_without_solving(costs[_TINY], _cpu_of)),
        ),
        ("of which solving", statistics.median(solving), statistics.median(solving)),
        (
            "of which scanning, packing and writing",
            statistics.median(_net(costs, _wall_of)),
            statistics.median(_net(costs, _cpu_of)),
        ),
    ]
    return Table(
        f"`packing run --workers 1`: {packed.sequences:,} sequences, {packed.packs:,} packs",
        ("what", "wall seconds", "CPU seconds"),
        tuple(rows),
        (
            f"{_bytes_of(data.raw) / _GB:.3g} GB read from the page cache, {sum(packed.sizes) / _GB:.3g} GB written "
            "and flushed to disk. The start is what a run on a few records takes; solving, what the "
            "recipe says (on one core, wall and CPU time are the same).",
        ),
    )


def _cpu(costs: Mapping[str, list[Cost]], packed: Packed) -> Table:
    net = [seconds / packed.sequences for seconds in _net(costs, _cpu_of)]
    whole = [cost.cpu_seconds / packed.sequences for cost in costs[_OURS]]
    rows: list[tuple[Cell, ...]] = [
        ("Stowage: scanning, packing and writing", 1e6 * statistics.median(net), 1.0, None),
        ("Stowage: the whole run, with its start and solving", 1e6 * statistics.median(whole), None, 1.0),
    ]
    for variant in VARIANTS:
        theirs = _per_sequence(costs[variant])
        row = (f"protobuf objects: {variant}", 1e6 * statistics.median(theirs))
        rows.append((*row, median_ratio(theirs, net), median_ratio(theirs, whole)))
    sequences = int(costs[VARIANTS[0]][0].result["sequences"])
    return Table(
        "CPU time a sequence",
        ("packer", "microseconds", "over scanning, packing and writing", "over the whole run"),
        tuple(rows),
        (f"The protobuf packers were given ready strategies, and packed {sequences:,} of the sequences.",),
    )


def _wall(costs: Mapping[str, list[Cost]], data: _Data, packed: Packed) -> Table:
    net, plain = _net(costs, _wall_of), [cost.seconds for cost in costs[_PLAIN]]
    scan = _scan_rate(costs, data)
    rows: list[tuple[Cell, ...]] = [
        ("plain read and write of the same bytes", statistics.median(plain), None, None),
        (
            "Stowage: scanning, packing and writing",
            statistics.median(net),
            median_ratio(net, plain),
            packed.packs / statistics.median(net),
        ),
        (
            "Stowage: the whole run, with its start and solving",
            _median(costs[_OURS], _wall_of),
            median_ratio([cost.seconds for cost in costs[_OURS]], plain),
            packed.packs / _median(costs[_OURS], _wall_of),
        ),
    ]
    notes = [f"`packing scan` of {_bytes_of(data.largest) / _GB:.3g} GB, without its start: {scan:.3g} GB/s."]
    if _TENSORFLOW in costs:
        rates = [cost.result["records"] / cost.result["seconds"] for cost in costs[_TENSORFLOW]]
        rows.append(("`tf.io.TFRecordWriter` copying ready packs", None, None, statistics.median(rates)))
    else:
        notes.append("`tf.io.TFRecordWriter` was left out: a quick run, or no TensorFlow here.")
    return Table("Wall time", ("what", "seconds", "over plain", "packs/s"), tuple(rows), tuple(notes))


def _median(costs: Sequence[Cost], value: Callable[[Cost], float]) -> float:
    return statistics.median(value(cost) for cost in costs)
