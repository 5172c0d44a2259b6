"""The training run: open the data, restore or build the state, step until the wanted sequences are seen, save."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from packing.errors import InputError, StowageError, TrackingError, UsageError
from packing.ports import Run, Storage, Tracker
from training.checkpoint import Checkpoints
from training.config import ModelConfig, SavedConfig, TrainingConfig
from training.data import Examples, check_model, evaluation_batches, open_examples, training_batches
from training.evaluate import Evaluation, evaluate
from training.metrics import MetricSender, StepFigures, Throughput, Totals
from training.optimizer import Schedule
from training.preemption import PreemptedError, sigterm_requests_stop
from training.step import StepResult, TrainingState, make_train_step, new_state

EXPERIMENT = "bert-pretraining"

logger = logging.getLogger(__name__)


class DivergedError(StowageError):
    """The loss is no longer a number; the last checkpoint is from before."""


@dataclass(frozen=True)
class TrainingSummary:
    """What a run came to. `steps` and `sequences` count from its very start, the other figures are of this process.

    Rates and `seconds` leave out the process's first step, which is mostly tracing; rates are None if it was the only
    one, and so are the losses if no step was left to do.
    """

    steps: int
    sequences: int
    first_mlm_loss: float | None
    last_mlm_loss: float | None
    real_tokens: int
    seconds: float
    sequences_per_second: float | None
    real_tokens_per_second: float | None
    packing_factor: float
    recipe_id: str | None
    manifest: str | None
    run_id: str
    checkpoint: str
    evaluation: Evaluation | None


def train(
    storage: Storage,
    tracker: Tracker,
    model: ModelConfig,
    config: TrainingConfig,
    model_dir: Path,
    *,
    cache: Path | None = None,
) -> TrainingSummary:
    """Train, resuming from the latest checkpoint in `model_dir`; raises PreemptedError after a SIGTERM."""
    _make_folder(model_dir)
    cache = cache or model_dir / "cache"
    examples = open_examples(storage, config.data, cache)
    check_model(examples, model)
    held_out = open_examples(storage, config.eval_data, cache) if config.eval_data else None
    state = new_state(model, config)
    checkpoints = Checkpoints(model_dir, state, keep=config.keep_checkpoints)
    saved = SavedConfig.load(model_dir) if checkpoints.restore_latest() else None
    if saved:
        _check_resumable(saved, SavedConfig(model, config, examples.recipe_id, saved.run_id))
    with (
        sigterm_requests_stop() as stop_requested,
        _tracked(_open_run(tracker, model, config, examples, saved)) as sender,
    ):
        run_id = sender.run.run_id
        SavedConfig(model, config, examples.recipe_id, run_id).save(model_dir)
        totals = _take_steps(state, examples, config, checkpoints, sender, stop_requested)
        checkpoint = checkpoints.save()
        evaluation = None
        if held_out:
            batches = evaluation_batches(held_out, model, limit=config.eval_sequences)
            evaluation = evaluate(state.model, batches, held_out.uri)
            sender.add(int(state.progress.steps.numpy()), evaluation.metrics())
    return _summarize(state, examples, totals, run_id, checkpoint, evaluation)


def batch_size(examples: Examples, sequences_per_step: int, replicas: int = 1) -> int:
    """Examples a step that hold `sequences_per_step` sequences on average, a multiple of `replicas`."""
    return max(1, round(sequences_per_step / examples.packing_factor / replicas)) * replicas


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"{folder}: cannot be the model folder ({exc.strerror})") from exc


def _take_steps(
    state: TrainingState,
    examples: Examples,
    config: TrainingConfig,
    checkpoints: Checkpoints,
    sender: MetricSender,
    stop_requested: Callable[[], bool],
) -> Totals:
    """Step to the end; a SIGTERM saves and raises PreemptedError, a loss that is no number raises DivergedError."""
    totals, interval = Totals(), Throughput()
    for figures in _steps(state, examples, config):
        if not math.isfinite(figures.mlm_loss + figures.nsp_loss):
            raise DivergedError(
                f"step {figures.step}: mlm_loss {figures.mlm_loss}, nsp_loss {figures.nsp_loss}, expected numbers; the "
                f"last checkpoint is {checkpoints.latest or 'none'}; resume with a lower learning rate"
            )
        if totals.first:
            interval.add(figures)
        totals.add(figures)
        sender.add(figures.step, figures.metrics())
        if figures.step % config.log_every == 0:
            sender.add(figures.step, interval.rates())
            sender.flush()
            _log(figures, interval)
            interval = Throughput()
        if stop_requested():
            raise PreemptedError(f"SIGTERM at step {figures.step}: saved {checkpoints.save()}; run again to resume")
        if figures.step % config.checkpoint_every == 0:
            checkpoints.save()
    if totals.last and interval.seconds:
        sender.add(totals.last.step, interval.rates())
        _log(totals.last, interval)
    return totals


def _steps(state: TrainingState, examples: Examples, config: TrainingConfig) -> Iterator[StepFigures]:
    """Take steps until the run's end, from wherever `state` stands."""
    size = batch_size(examples, config.sequences_per_step, state.strategy.num_replicas_in_sync)
    total = config.sequences or examples.sequences
    if config.steps is not None:
        total = round(config.steps * size * examples.packing_factor)
    start = int(state.progress.examples.numpy())
    batches = training_batches(examples, state.model.config, batch_size=size, seed=config.seed, start=start)
    iterator = iter(state.strategy.experimental_distribute_dataset(batches))
    train_step = make_train_step(state, Schedule(config.learning_rate, config.warmup_sequences, total), config.seed)
    logger.info("%s: %d examples a step, packing factor %.4f", examples.uri, size, examples.packing_factor)
    step, sequences = int(state.progress.steps.numpy()), int(state.progress.sequences.numpy())
    while step < config.steps if config.steps is not None else sequences < total:
        started = time.perf_counter()
        try:
            result = train_step(next(iterator))
        except tf.errors.InvalidArgumentError as exc:
            raise InputError(f"{examples.uri}: {_reason(exc.message)}") from exc
        step += 1
        sequences += int(result.sums.sequences)
        yield _figures(result, step, sequences, time.perf_counter() - started)


def _reason(message: str) -> str:
    """What an assertion in the graph says, without the names of the nodes around it."""
    found = re.search(r"assertion failed: \[(.*?)\] \[", message)
    return found[1].replace("\\", "") if found else message.splitlines()[0]


def _figures(result: StepResult, step: int, sequences_seen: int, seconds: float) -> StepFigures:
    sums = result.sums
    masked, sequences = max(float(sums.masked_tokens), 1.0), max(float(sums.sequences), 1.0)
    return StepFigures(
        step=step,
        sequences_seen=sequences_seen,
        examples=int(result.examples),
        sequences=int(sums.sequences),
        real_tokens=int(result.real_tokens),
        mlm_loss=float(sums.mlm_loss) / masked,
        mlm_accuracy=float(sums.mlm_correct) / masked,
        nsp_loss=float(sums.nsp_loss) / sequences,
        nsp_accuracy=float(sums.nsp_correct) / sequences,
        gradient_norm=float(result.gradient_norm),
        learning_rate=float(result.learning_rate),
        seconds=seconds,
    )


def _log(figures: StepFigures, interval: Throughput) -> None:
    rates = interval.rates()
    logger.info(
        "step %d  sequences %d  mlm_loss %.4f  nsp_loss %.4f  %.1f sequences/s  %.0f real tokens/s",
        figures.step,
        figures.sequences_seen,
        figures.mlm_loss,
        figures.nsp_loss,
        rates.get("throughput/sequences_per_second", math.nan),
        rates.get("throughput/real_tokens_per_second", math.nan),
    )


def _summarize(
    state: TrainingState,
    examples: Examples,
    totals: Totals,
    run_id: str,
    checkpoint: str,
    evaluation: Evaluation | None,
) -> TrainingSummary:
    rates = totals.throughput.rates()
    return TrainingSummary(
        steps=int(state.progress.steps.numpy()),
        sequences=int(state.progress.sequences.numpy()),
        first_mlm_loss=totals.first.mlm_loss if totals.first else None,
        last_mlm_loss=totals.last.mlm_loss if totals.last else None,
        real_tokens=totals.real_tokens,
        seconds=totals.throughput.seconds,
        sequences_per_second=rates.get("throughput/sequences_per_second"),
        real_tokens_per_second=rates.get("throughput/real_tokens_per_second"),
        packing_factor=examples.packing_factor,
        recipe_id=examples.recipe_id,
        manifest=examples.uri if examples.packed else None,
        run_id=run_id,
        checkpoint=checkpoint,
        evaluation=evaluation,
    )


def _open_run(
    tracker: Tracker, model: ModelConfig, config: TrainingConfig, examples: Examples, saved: SavedConfig | None
) -> Run:
    """The tracked run to add to: the saved one's when resuming, else a new one."""
    if saved and saved.run_id:
        try:
            return tracker.open_run(saved.run_id)
        except TrackingError as exc:
            logger.warning("%s; the resumed run is tracked as a new one", exc)
    identity = {"recipe_id": examples.recipe_id, "manifest": examples.uri} if examples.packed else {}
    params = {**asdict(config), **{f"model.{name}": value for name, value in asdict(model).items()}, **identity}
    return tracker.start_run(
        EXPERIMENT,
        f"{config.mode} {examples.recipe_id or ''}"[:24].strip(),
        params={name: str(value) for name, value in params.items()},
        tags={f"stowage.{name}": str(value) for name, value in identity.items()},
    )


def _check_resumable(saved: SavedConfig, wanted: SavedConfig) -> None:
    """Refuse to go on with another model, other data or another order of it."""
    compared = [
        ("model", saved.model, wanted.model),
        ("data", saved.recipe_id or saved.training.data, wanted.recipe_id or wanted.training.data),
        ("seed", saved.training.seed, wanted.training.seed),
    ]
    for name, before, now in compared:
        if before != now:
            raise UsageError(f"{name}: the checkpoint was trained with {before}, got {now}; use another --model-dir")


@contextmanager
def _tracked(run: Run) -> Iterator[MetricSender]:
    """Deliver all metrics and end the run: FINISHED, KILLED (SIGTERM, Ctrl-C) or FAILED."""
    sender = MetricSender(run)
    try:
        yield sender
    except BaseException as exc:
        killed = isinstance(exc, (PreemptedError, KeyboardInterrupt))
        try:
            sender.close()
            run.finish("KILLED" if killed else "FAILED")
        except TrackingError as tracking:
            logger.warning("run %s could not be ended: %s", run.run_id, tracking)
        raise
    sender.close()
    run.finish("FINISHED")
