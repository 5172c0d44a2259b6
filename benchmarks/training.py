"""What packing buys in training, what its mask costs, whether it learns alike, and what handing over metrics costs.

A tiny BERT on raw data of the usual kind, on the CPU. Its ratios hold elsewhere as far as the cost of a step is that of
its slots, which is what packing relies on.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median, quantiles
from typing import Any

from benchmarks.datasets import raw_data
from benchmarks.measure import fresh, median_ratio, module, packing, run
from benchmarks.report import Part, Table, Target, at_least, at_most, not_measured
from benchmarks.settings import Bench, say
from benchmarks.surroundings import plain_surroundings
from packing.in_memory import MemoryRun
from packing.ports import Metric
from training.sender import MetricSender

_SPEED, _MASK, _LOSS, _HAND_OVER = (
    "sequences per CPU second of training, packed over padded",
    "CPU time of a training step, with the block-diagonal mask over the mask of padded training",
    "held-out MLM loss after as many sequences, packed and padded: difference of the means",
    "handing over the metrics of a step, 99th percentile",
)
_METRICS_A_STEP, _SERVER_SECONDS, _STEP_SECONDS = 12, 0.03, 0.002
_ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def measure(bench: Bench) -> Part:
    """Steps and losses in processes of their own, then the hand-over."""
    targets, tables = _training(bench)
    target, table = _hand_over(bench)
    return Part("Training", (*targets, target), (*tables, table))


def _training(bench: Bench) -> tuple[list[Target], list[Table]]:
    if not (bench.sizes.with_tensorflow and importlib.util.find_spec("tensorflow")):
        wanted = {_SPEED: "at least 0.95 x packing factor", _MASK: "at most 1.05x", _LOSS: "at most the seeds' spread"}
        reason = "a quick run, or no TensorFlow here"
        return [not_measured(what, target, reason) for what, target in wanted.items()], []
    raw, held_out, folder = raw_data(bench, 1), fresh(bench.scratch / "held-out"), fresh(bench.scratch / "training")
    unseen = max(raw_data(bench, 2).iterdir())
    os.link(unseen, held_out / unseen.name)
    packed = run(packing("run", str(raw), str(folder / "packed")), plain_surroundings())
    data = [str(packed.result["manifest"]), str(raw)]
    say("  steps")
    sizes = [str(size) for size in (bench.sizes.train_examples, bench.sizes.train_steps)]
    environment = {**plain_surroundings(), **_ONE_THREAD}
    steps = run(module("train_steps", *data, str(folder / "cache"), *sizes), environment).result
    say("  losses")
    sizes = [str(size) for size in (bench.sizes.train_sequences, bench.sizes.train_seeds)]
    losses = run(module("train_losses", *data, str(held_out), str(folder), *sizes), plain_surroundings()).result
    return (
        [*_step_targets(steps), _loss_target(losses["mlm_losses"])],
        [
            _step_table(steps, bench.sizes.train_examples),
            _loss_table(losses["mlm_losses"], bench.sizes.train_sequences),
        ],
    )


def _step_targets(steps: Mapping[str, Any]) -> list[Target]:
    factor, seconds = steps["packing_factor"], steps["seconds"]
    return [
        at_least(_SPEED, factor * median_ratio(seconds["padded"], seconds["packed"]), 0.95 * factor, "x"),
        at_most(_MASK, median_ratio(seconds["packed"], seconds["padding_mask"]), 1.05, "x"),
    ]


def _step_table(steps: Mapping[str, Any], examples: int) -> Table:
    factor, seconds = steps["packing_factor"], steps["seconds"]
    speed_up = factor * median_ratio(seconds["padded"], seconds["packed"])
    return Table(
        "Training steps of a tiny BERT, one thread",
        ("mode", "CPU milliseconds a step", "sequences a step", "sequences per CPU second over padded"),
        (
            ("packed", 1000 * median(seconds["packed"]), factor * examples, speed_up),
            ("padded", 1000 * median(seconds["padded"]), float(examples), 1.0),
            ("bucketed by length", None, None, 1 / steps["bucketed_over_padded"]),
        ),
        (
            f"A step has {examples} packs, which hold {factor:.4f} sequences each on average, or as many padded "
            "sequences. Bucketed steps have padded sequences of similar length, cut to a multiple of 64 tokens: their "
            "figure is the CPU time of each such length, weighted by its steps in an epoch.",
        ),
    )


def _loss_target(losses: Mapping[str, Sequence[float]]) -> Target:
    difference = abs(fmean(losses["packed"]) - fmean(losses["padded"]))
    return at_most(_LOSS, difference, max(_spread(some) for some in losses.values()), "nats")


def _loss_table(losses: Mapping[str, Sequence[float]], sequences: int) -> Table:
    rows = [
        (mode, ", ".join(f"{loss:.4f}" for loss in some), fmean(some), _spread(some)) for mode, some in losses.items()
    ]
    return Table(
        f"MLM loss on held-out sequences after {sequences:,} sequences",
        ("mode", "by seed", "mean", "spread (largest - smallest)"),
        tuple(rows),
        ("The target is the larger spread of the two.",),
    )


def _spread(some: Sequence[float]) -> float:
    return max(some) - min(some)


class _DistantServer(MemoryRun):
    """A tracked run behind a network."""

    def log_metrics(self, metrics: Iterable[Metric]) -> None:
        time.sleep(_SERVER_SECONDS)
        super().log_metrics(metrics)


def _hand_over(bench: Bench) -> tuple[Target, Table]:
    say("  metrics")
    tracked = _DistantServer("run", "benchmarks", "hand-over", {}, {})
    sender = MetricSender(tracked, fresh(bench.scratch / "metrics"))
    values = {f"metric/{number}": 0.1 * number for number in range(_METRICS_A_STEP)}
    milliseconds = []
    for step in range(bench.sizes.handed_over):
        started = time.perf_counter()
        sender.add(step, values)
        milliseconds.append(1000 * (time.perf_counter() - started))
        time.sleep(_STEP_SECONDS)
    sender.close()
    if len(tracked.metrics) != len(values) * bench.sizes.handed_over:
        raise RuntimeError(f"expected {len(values) * bench.sizes.handed_over} metrics, got {len(tracked.metrics)}")
    worst = quantiles(milliseconds, n=100)[-1]
    table = Table(
        f"Handing over {len(values)} metrics a step, {bench.sizes.handed_over:,} steps",
        ("what", "milliseconds of the training thread"),
        (("median", median(milliseconds)), ("99th percentile", worst), ("longest", max(milliseconds))),
        (f"Every metric is kept in a file on its way; the server takes {1000 * _SERVER_SECONDS:.0f} ms a batch.",),
    )
    return at_most(_HAND_OVER, worst, 1, "ms"), table
