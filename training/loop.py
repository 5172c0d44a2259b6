"""The training loop: a step, what it reports, an evaluation where one is due, a checkpoint where one is due."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from packing.errors import InputError, UsageError
from packing.jsonio import digest
from training.background import StoppedError
from training.checkpoint import Checkpoints
from training.config import TrainingConfig
from training.data import batch_errors, shards_read, training_batches
from training.devices import Worker, local_replicas
from training.errors import DivergedError, reason
from training.evaluate import Evaluation, Evaluator
from training.examples import Examples
from training.flops import flops_per_example
from training.loss import means
from training.metrics import StepFigures, Throughput, Totals
from training.preemption import PeerLostError, PreemptedError
from training.sender import MetricSender
from training.step import StepResult, TrainingState, make_train_step

_SMALLEST_LOSS_SCALE = 1.0
_LARGEST_MEAN_SQUARE = 1e8
"""Of the weights of one variable; before training it is 1 at most, that of layer norms."""
_SHARDS_NAMED = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How a run goes through its data: examples of a step on all replicas, and sequences until the end."""

    batch_size: int
    total_sequences: int
    steps: int | None

    @classmethod
    def of(cls, config: TrainingConfig, examples: Examples, replicas: int) -> Plan:
        """The examples that hold `sequences_per_step` sequences on average, a multiple of replicas x micro-batches."""
        parts = replicas * config.micro_batches
        size = max(1, round(config.sequences_per_step / examples.packing_factor / parts)) * parts
        total = config.sequences or examples.sequences
        if config.steps is not None:
            total = round(config.steps * size * examples.packing_factor)
        return cls(size, total, config.steps)


class Stepper:
    """Takes the steps of a run one by one, from wherever `state` stands."""

    def __init__(
        self, state: TrainingState, worker: Worker, data: Sequence[Examples], config: TrainingConfig, plan: Plan
    ) -> None:
        self._data, self._plan, self._config, self._model = data, plan, config, state.model.config
        self._step_number, self._sequences = (int(x.numpy()) for x in (state.progress.steps, state.progress.sequences))
        batches = training_batches(
            data,
            self._model,
            mode=config.mode,
            batch_size=plan.batch_size,
            seed=config.seed,
            start=self._step_number,
            shares=local_replicas(state.strategy, worker),
            replicas=state.strategy.num_replicas_in_sync,
        )
        self._batches = iter(state.strategy.distribute_datasets_from_function(lambda _: batches))
        self._train_step = make_train_step(state, config, plan.total_sequences)
        self._widths: set[int] = set()

    @property
    def done(self) -> bool:
        """Whether the run has come to its end."""
        if self._plan.steps is not None:
            return self._step_number >= self._plan.steps
        return self._sequences >= self._plan.total_sequences

    def __call__(self, *, stop: bool = False) -> tuple[StepFigures, bool]:
        """Take a step; gives its figures, and whether any worker was called with `stop`.

        Raises InputError and VerificationError for wrong data, DivergedError for a loss that is no number.
        """
        started = time.perf_counter()
        with batch_errors(self._data):
            batch = next(self._batches)
        waited = time.perf_counter() - started
        try:
            result = self._train_step(batch, tf.constant(int(stop)))
        except tf.errors.InvalidArgumentError as exc:
            step = self._step_number + 1
            raise InputError(
                f"step {step}: expected a batch that the model can compute, found another ({reason(exc.message)}); "
                f"{self._origin(step)}"
            ) from exc
        result = tf.nest.map_structure(lambda scalar: float(scalar.numpy()), result)
        self._step_number += 1
        self._sequences += int(result.counts.sequences)
        figures = self._figures(result, time.perf_counter() - started, waited)
        if self._is_diverged(result):
            raise DivergedError(
                f"step {figures.step}: mlm_loss {figures.mlm_loss}, nsp_loss {figures.nsp_loss}, gradient norm "
                f"{figures.gradient_norm}, expected numbers; {self._origin(figures.step)}"
            )
        return figures, result.stops > 0

    def _figures(self, result: StepResult, seconds: float, input_seconds: float) -> StepFigures:
        counts, size = result.counts, self._plan.batch_size
        width = int(counts.slots) // size
        # A batch of another width is traced anew, and compiled anew by XLA.
        timed = width in self._widths
        self._widths.add(width)
        return StepFigures(
            step=self._step_number,
            sequences_seen=self._sequences,
            examples=int(counts.examples),
            sequences=int(counts.sequences),
            real_tokens=int(counts.real_tokens),
            slots=int(counts.slots),
            **means(result.sums, counts),
            gradient_norm=result.gradient_norm,
            learning_rate=result.learning_rate,
            seconds=seconds,
            input_seconds=input_seconds,
            flops=size * flops_per_example(self._model, width, self._data[0].masked_slots),
            loss_scale=result.loss_scale if self._config.compute_dtype == "float16" else None,
            timed=timed,
        )

    def _is_diverged(self, result: StepResult) -> bool:
        """A float16 gradient may overflow now and then, which skips the step and halves the loss scale."""
        overflows = self._config.compute_dtype == "float16" and result.loss_scale >= _SMALLEST_LOSS_SCALE
        losses = math.isfinite(result.sums.mlm_loss) and math.isfinite(result.sums.nsp_loss)
        return not (losses and (overflows or math.isfinite(result.gradient_norm)))

    def _origin(self, step: int) -> str:
        """Which shards a step has read."""
        shards = shards_read(
            self._data,
            mode=self._config.mode,
            batch_size=self._plan.batch_size,
            seed=self._config.seed,
            step=step - 1,
        )
        more = f" and {len(shards) - _SHARDS_NAMED} more" if len(shards) > _SHARDS_NAMED else ""
        return f"it read {', '.join(shards[:_SHARDS_NAMED])}{more}"


@dataclass(frozen=True)
class Session:
    """What the loop works with; only the chief of several workers has something to save and to report to.

    `peak_flops` is that of all devices together, None if not known.
    """

    state: TrainingState
    worker: Worker
    config: TrainingConfig
    stepper: Stepper
    evaluator: Evaluator | None
    checkpoints: Checkpoints
    sender: MetricSender
    peak_flops: float | None


@contextmanager
def device_errors(worker: Worker) -> Iterator[None]:
    """Around all that computes: says in our words what devices and peers fail with."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as exc:
        raise UsageError(
            "a device is out of memory; give more --micro-batches or fewer --sequences-per-step "
            f"({reason(exc.message)})"
        ) from exc
    except tf.errors.OpError as exc:
        if worker.count == 1 or isinstance(exc, tf.errors.InvalidArgumentError):
            raise
        raise PeerLostError(
            f"worker {worker.index} of {worker.count}: another worker is gone ({type(exc).__name__}: "
            f"{reason(exc.message)}); start all of them again to resume from the latest checkpoint"
        ) from exc


def take_steps(session: Session, stop_requested: Callable[[], bool]) -> tuple[Totals, Evaluation | None]:
    """Step to the end of the run, saving as often as it wants; gives its figures and its last evaluation.

    A SIGTERM to any worker saves and raises PreemptedError in all of them, after the same step.
    """
    totals, interval, config = Totals(), Throughput(), session.config
    evaluation = None
    while not session.stepper.done and not target_reached(session.state, config):
        try:
            figures, stopping = session.stepper(stop=stop_requested())
        except DivergedError as exc:
            raise DivergedError(f"{exc}; {_advice(session)}") from exc
        interval = _report(session, figures, totals, interval)
        if stopping:
            raise PreemptedError(f"SIGTERM at step {figures.step}: saved {save(session)}; run again to resume")
        # Before a save, which keeps what the evaluation found.
        if session.evaluator and (session.stepper.done or _is_due(figures, config.eval_every)):
            evaluation = _evaluate(session, session.evaluator, stop_requested)
        if figures.step % config.checkpoint_every == 0:
            save(session)
    if session.evaluator and evaluation is None:
        evaluation = _evaluate(session, session.evaluator, stop_requested)
    return totals, evaluation


def save(session: Session) -> str:
    """Have the chief save, and all workers wait until it has; gives the checkpoint's URI, or "" on other workers."""
    session.sender.flush()
    _check_weights(session)
    uri = session.checkpoints.save() if session.worker.is_chief else ""
    if session.worker.count > 1:
        _wait_for_all(session.state.strategy)
    return uri


def _check_weights(session: Session) -> None:
    """A last update may have ruined the weights, which no loss has shown yet."""
    step = int(session.state.progress.steps.numpy())
    for name, weight in session.state.model.weights.items():
        found = float(tf.reduce_mean(tf.square(weight)))
        if not found <= _LARGEST_MEAN_SQUARE:
            raise DivergedError(
                f"step {step}: {name}: expected weights with a mean square of at most {_LARGEST_MEAN_SQUARE:g}, found "
                f"{found:g}, so nothing is saved; {_advice(session)}"
            )


def _advice(session: Session) -> str:
    """What to do after weights have diverged."""
    latest = session.checkpoints.latest()
    if latest is None:
        return "there is no checkpoint; start again with a lower learning rate"
    return (
        f"the last checkpoint is {latest}; resume with a lower learning rate, and if that diverges at once, delete "
        "that file to go back to the checkpoint before it"
    )


def _wait_for_all(strategy: Any) -> None:
    """A worker that ended while the chief still saves would be taken for a lost one."""

    @tf.function  # type: ignore[untyped-decorator]
    def meet() -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: tf.ones([])), axis=None)

    meet().numpy()


def target_reached(state: TrainingState, config: TrainingConfig) -> bool:
    """Whether the last evaluation has met the accuracy that is wanted now, on the data that is wanted now."""
    target, progress = config.target_mlm_accuracy, state.progress
    if target is None or int(progress.held_out.numpy()) != _held_out(config):
        return False
    return bool(progress.eval_mlm_accuracy.numpy() >= np.float32(target))


def _held_out(config: TrainingConfig) -> int:
    """A number for the held-out data, to be saved as one."""
    return int(digest([config.eval_data, config.eval_sequences])[:15], 16)


def _is_due(figures: StepFigures, every: int | None) -> bool:
    """Whether the step has crossed a multiple of `every` sequences."""
    return every is not None and figures.sequences_seen // every > (figures.sequences_seen - figures.sequences) // every


def _evaluate(session: Session, evaluator: Evaluator, stop_requested: Callable[[], bool]) -> Evaluation:
    """Only a single worker stops in its midst: several can agree to stop after a step alone."""
    step, progress = int(session.state.progress.steps.numpy()), session.state.progress
    try:
        evaluation = evaluator(stop_requested) if session.worker.count == 1 else evaluator()
    except StoppedError as exc:
        raise PreemptedError(
            f"SIGTERM in the evaluation after step {step}: saved {save(session)}; run again to resume"
        ) from exc
    session.sender.add(step, evaluation.metrics())
    logger.info("step %d  eval: mlm_loss %.4f  mlm_accuracy %.4f", step, evaluation.mlm_loss, evaluation.mlm_accuracy)
    progress.eval_mlm_accuracy.assign(evaluation.mlm_accuracy)
    progress.held_out.assign(_held_out(session.config))
    return evaluation


def _report(session: Session, figures: StepFigures, totals: Totals, interval: Throughput) -> Throughput:
    """Send and log a step's figures; gives the interval that the next step belongs to."""
    interval.add(figures)
    totals.add(figures)
    session.sender.add(figures.step, figures.metrics())
    if figures.step % session.config.log_every and not session.stepper.done:
        return interval
    session.sender.add(figures.step, interval.rates(session.peak_flops))
    _log(figures, interval)
    return Throughput()


def _log(figures: StepFigures, interval: Throughput) -> None:
    text = f"step {figures.step}  sequences {figures.sequences_seen}  mlm_loss {figures.mlm_loss:.4f}"
    text += f"  nsp_loss {figures.nsp_loss:.4f}"
    if rates := interval.rates():
        text += f"  {rates['throughput/sequences_per_second']:.1f} sequences/s"
        text += f"  {rates['throughput/real_tokens_per_second']:.0f} real tokens/s"
    logger.info(text)
