"""The training run: open the data, restore or build the state, step until the wanted sequences are seen, save."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packing.errors import UsageError
from packing.ports import Storage, Tracker
from training.checkpoint import Checkpoints
from training.config import ModelConfig, TrainingConfig
from training.devices import Worker, device_name, open_strategy
from training.evaluate import Evaluation, Evaluator
from training.examples import Examples, check_model, open_examples
from training.flops import peak_flops
from training.initial import load_initial_weights
from training.loop import Plan, Session, Stepper, device_errors, save, take_steps, target_reached
from training.metrics import Totals
from training.model import Bert
from training.preemption import sigterm_requests_stop
from training.saved import CONFIG_FILE, SavedConfig
from training.shards import Cache
from training.step import TrainingState, new_state
from training.system_metrics import open_system_metrics
from training.tracking import describe, end_left, open_run, tracked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSummary:
    """What a run came to. `steps` and `sequences` count from its very start, the other figures are of this process.

    Rates and `seconds` are of timed steps (see StepFigures); rates are None if there was none, and so are the losses
    if no step was left to do.
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
    target_reached: bool
    evaluation: Evaluation | None


def train(
    storage: Storage,
    tracker: Tracker,
    model: ModelConfig,
    config: TrainingConfig,
    model_dir: str,
    *,
    work: Path,
    cache: Cache | None = None,
    worker: Worker | None = None,
) -> TrainingSummary:
    """Train, resuming from the latest checkpoint in `model_dir`; raises PreemptedError after a SIGTERM.

    `work` is a local folder for this process alone: scratch space, undelivered metrics and, without a `cache`, shards.
    """
    worker, cache = worker or Worker(), cache or Cache(work / "cache", config.cache_bytes)
    strategy = open_strategy(config.strategy, deterministic=config.deterministic)
    with ExitStack() as stack:

        def opened(uri: str, *, lengths: bool = False) -> Examples:
            examples = stack.enter_context(closing(open_examples(storage, uri, cache, lengths=lengths)))
            check_model(examples, model)
            return examples

        data = [opened(uri, lengths=config.mode == "bucketed") for uri in config.data]
        held_out = opened(config.eval_data) if config.eval_data else None
        plan = Plan.of(config, data[0], strategy.num_replicas_in_sync)
        state = new_state(strategy, model, config)
        checkpoints = Checkpoints(storage, model_dir, state, keep=config.keep_checkpoints, scratch=work)
        wanted = SavedConfig(model, config, tuple(examples.identity for examples in data), plan.batch_size, run_id="")
        saved = SavedConfig.find(storage, model_dir)
        if not _resume(checkpoints, wanted, saved) and config.init_checkpoint:
            initialize(state.model, storage, config.init_checkpoint, work)
        factor = data[0].packing_factor
        logger.info("%s: %d examples a step, packing factor %.4f", data[0].uri, plan.batch_size, factor)
        stop_requested = stack.enter_context(sigterm_requests_stop())
        # A run that was killed before its first checkpoint is the same run, too.
        run_id = saved.run_id if saved and saved.identity == wanted.identity else ""
        end_left(tracker, work / "metrics", resumed=run_id)
        run = open_run(tracker, config, describe(wanted, strategy), data, run_id)
        if run.run_id:
            logger.info("MLflow run %s", run.run_id)
        sample = open_system_metrics() if run.run_id else None
        sender = stack.enter_context(tracked(run, work / "metrics", sample))
        if worker.is_chief:
            replace(wanted, run_id=run.run_id or run_id).save(storage, model_dir)
        session = Session(
            state=state,
            worker=worker,
            config=config,
            stepper=Stepper(state, worker, data, config, plan),
            evaluator=_evaluator(state, worker, held_out, config),
            checkpoints=checkpoints,
            sender=sender,
            peak_flops=_peak_flops(strategy, config),
        )
        with device_errors(worker):
            totals, evaluation = take_steps(session, stop_requested)
            checkpoint = save(session)
    return _summarize(state, config, data[0], totals, run.run_id, checkpoint, evaluation)


def _resume(checkpoints: Checkpoints, wanted: SavedConfig, saved: SavedConfig | None) -> bool:
    """Restore the latest checkpoint, if there is one; raises UsageError if it is not of the wanted run."""
    latest = checkpoints.latest()
    if latest is None:
        return False
    if saved is None:
        raise UsageError(f"{latest}: expected {CONFIG_FILE} beside checkpoints, found none; use another --model-dir")
    wanted.check_resumes(saved)
    return checkpoints.restore_latest()


def initialize(model: Bert, storage: Storage, checkpoint: str, scratch: Path) -> None:
    """Load weights of a checkpoint, and say by which names they were found."""
    initial = load_initial_weights(storage, model, checkpoint, scratch)
    logger.info("%s: %d weights by %s names", checkpoint, len(initial.loaded), initial.naming)


def _evaluator(
    state: TrainingState, worker: Worker, held_out: Examples | None, config: TrainingConfig
) -> Evaluator | None:
    if held_out is None:
        return None
    return Evaluator(state.strategy, worker, state.model, held_out, limit=config.eval_sequences)


def _peak_flops(strategy: Any, config: TrainingConfig) -> float | None:
    """Of all devices together."""
    one = config.peak_tflops * 1e12 if config.peak_tflops else peak_flops(device_name(strategy), config.compute_dtype)
    return one and one * strategy.num_replicas_in_sync


def _summarize(
    state: TrainingState,
    config: TrainingConfig,
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
        target_reached=target_reached(state, config),
        evaluation=evaluation,
    )
