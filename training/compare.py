"""What packing buys: one model trained on the same raw data packed and otherwise, step by step in one process.

Both sides take the same number of sequences a step on average, and see the same number in all. Their steps alternate,
so that whatever else the machine does slows both. A side's first step of each width, mostly tracing, is not timed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packing.errors import InputError, UsageError
from packing.ports import Storage, Tracker
from training.config import ModelConfig, TrainingConfig
from training.devices import Worker, open_strategy
from training.examples import Examples, check_model, open_examples
from training.loop import Plan, Stepper, device_errors
from training.metrics import Totals
from training.preemption import PreemptedError, sigterm_requests_stop
from training.saved import SavedConfig
from training.sender import MetricSender
from training.shards import Cache
from training.step import new_state
from training.tracking import PARENT, describe, end_left, open_run, start_run, tracked
from training.train import initialize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """`speedup` is packed over other sequences per second of wall time; `packing_factor` its ideal over padded data.

    Losses are means over the last tenth of each side's steps.
    """

    against: str
    speedup: float
    packing_factor: float
    sequences: int
    packed_steps: int
    other_steps: int
    packed_sequences_per_second: float
    other_sequences_per_second: float
    packed_mlm_loss: float
    other_mlm_loss: float
    run_id: str


@dataclass
class Side:
    """One of the two runs."""

    stepper: Stepper
    sender: MetricSender
    totals: Totals
    losses: list[float]

    @property
    def sequences(self) -> int:
        return self.totals.last.sequences_seen if self.totals.last else 0

    def take_step(self) -> None:
        """Metrics are logged by sequences seen, not by steps, so that both curves have the same axis."""
        figures, _ = self.stepper()
        self.totals.add(figures)
        self.losses.append(figures.mlm_loss)
        self.sender.add(figures.sequences_seen, figures.metrics())

    @property
    def rate(self) -> float:
        return self.totals.throughput.rates()["throughput/sequences_per_second"]

    @property
    def final_loss(self) -> float:
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(last) / len(last)


def compare(
    storage: Storage,
    tracker: Tracker,
    model: ModelConfig,
    config: TrainingConfig,
    *,
    raw: str,
    against: str,
    work: Path,
    cache: Cache | None = None,
) -> Comparison:
    """Train as `config` says on its manifest, and in the mode `against` on the raw shards below `raw` that it packs.

    Nothing is saved. MLflow gets one run with the result and, as its children, one for each side.
    """
    if config.mode != "packed" or against == "packed":
        raise UsageError(f"compare: expected mode packed against another one, got {config.mode} against {against}")
    if config.steps == 1:
        raise UsageError("compare: expected two steps or more, as the first is not timed, got --steps 1")
    if config.strategy == "multi-worker":
        raise UsageError("compare: expected a strategy of one machine, got multi-worker")
    cache = cache or Cache(work / "cache", config.cache_bytes)
    end_left(tracker, work / "metrics")
    packed_data = open_examples(storage, config.data[0], cache)
    other_data = open_examples(storage, raw, cache, lengths=against == "bucketed")
    if packed_data.sequences != other_data.sequences:
        raise InputError(
            f"{raw}: expected the {packed_data.sequences} sequences that {packed_data.uri} packs, found "
            f"{other_data.sequences}; give the --raw that it was made from"
        )
    strategy = open_strategy(config.strategy, deterministic=config.deterministic)
    total = Plan.of(config, packed_data, strategy.num_replicas_in_sync).total_sequences
    config = replace(config, steps=None, sequences=total)
    other = replace(config, data=(raw,), mode=against)
    kind = f"packed against {against}"
    parent = start_run(tracker, kind, {"raw": raw, "against": against}, [packed_data])
    if parent.run_id:
        logger.info("MLflow run %s", parent.run_id)
    with sigterm_requests_stop() as stop_requested, tracked(parent, work / "metrics") as sender, ExitStack() as stack:
        sides = [
            stack.enter_context(_open_side(storage, tracker, strategy, model, settings, data, parent.run_id, work))
            for settings, data in ((config, packed_data), (other, other_data))
        ]
        with device_errors(Worker()):
            _alternate(*sides, log_every=config.log_every, stop_requested=stop_requested)
        result = _result(against, packed_data, *sides, run_id=parent.run_id)
        logger.info("%.3f times the sequences/s, packing factor %.3f", result.speedup, result.packing_factor)
        sender.add(0, {"speedup": result.speedup, "packing_factor": result.packing_factor})
    return result


@contextmanager
def _open_side(
    storage: Storage,
    tracker: Tracker,
    strategy: Any,
    model: ModelConfig,
    config: TrainingConfig,
    data: Examples,
    parent: str,
    work: Path,
) -> Iterator[Side]:
    check_model(data, model)
    plan = Plan.of(config, data, strategy.num_replicas_in_sync)
    state = new_state(strategy, model, config)
    if config.init_checkpoint:
        initialize(state.model, storage, config.init_checkpoint, work)
    stepper = Stepper(state, Worker(), [data], config, plan)
    saved = SavedConfig(model, config, (data.identity,), plan.batch_size, run_id="")
    run = open_run(tracker, config, describe(saved, strategy), [data], "", {PARENT: parent})
    with closing(data), tracked(run, work / "metrics") as sender:
        yield Side(stepper, sender, Totals(), [])


def _alternate(packed: Side, other: Side, *, log_every: int, stop_requested: Callable[[], bool]) -> None:
    """The side that has seen fewer sequences takes the next step, until both are at their end."""
    while not (packed.stepper.done and other.stepper.done):
        if stop_requested():
            raise PreemptedError("SIGTERM: the comparison is stopped; run again to start it anew")
        waiting = [side for side in (packed, other) if not side.stepper.done]
        side = min(waiting, key=lambda side: side.sequences)
        side.take_step()
        if side is packed and other.losses and len(packed.losses) % log_every == 0:
            logger.info("%d sequences: mlm_loss %.4f, %.4f", packed.sequences, packed.losses[-1], other.losses[-1])


def _result(against: str, data: Examples, packed: Side, other: Side, *, run_id: str) -> Comparison:
    if not (packed.totals.throughput.seconds and other.totals.throughput.seconds):
        raise UsageError("compare: expected more steps, as the first of each width is not timed; give --steps")
    return Comparison(
        against=against,
        speedup=packed.rate / other.rate,
        packing_factor=data.packing_factor,
        sequences=packed.sequences,
        packed_steps=len(packed.losses),
        other_steps=len(other.losses),
        packed_sequences_per_second=packed.rate,
        other_sequences_per_second=other.rate,
        packed_mlm_loss=packed.final_loss,
        other_mlm_loss=other.final_loss,
        run_id=run_id,
    )
