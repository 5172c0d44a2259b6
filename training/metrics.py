"""What a run reports: the figures of each step, throughput, and their way to the tracker beside the training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from packing.errors import TrackingError
from packing.ports import Metric, Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepFigures:
    """One step, on the host. Losses are means over its masked tokens and its sequences; `seconds` is wall time."""

    step: int
    sequences_seen: int
    examples: int
    sequences: int
    real_tokens: int
    mlm_loss: float
    mlm_accuracy: float
    nsp_loss: float
    nsp_accuracy: float
    gradient_norm: float
    learning_rate: float
    seconds: float

    def metrics(self) -> dict[str, float]:
        return {
            "loss/mlm": self.mlm_loss,
            "loss/nsp": self.nsp_loss,
            "accuracy/mlm": self.mlm_accuracy,
            "accuracy/nsp": self.nsp_accuracy,
            "gradient_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
            "sequences_seen": float(self.sequences_seen),
        }


@dataclass
class Throughput:
    """Work and wall time since the start or the last reset; never add a first step, which is mostly tracing."""

    examples: int = 0
    sequences: int = 0
    real_tokens: int = 0
    seconds: float = 0.0

    def add(self, figures: StepFigures) -> None:
        self.examples += figures.examples
        self.sequences += figures.sequences
        self.real_tokens += figures.real_tokens
        self.seconds += figures.seconds

    def rates(self) -> dict[str, float]:
        """Per second, by metric name; empty before any step was added."""
        if not self.seconds:
            return {}
        return {
            "throughput/sequences_per_second": self.sequences / self.seconds,
            "throughput/packs_per_second": self.examples / self.seconds,
            "throughput/real_tokens_per_second": self.real_tokens / self.seconds,
        }


@dataclass
class Totals:
    """The figures of one process: its first and last step, its tokens, its throughput without the first step."""

    first: StepFigures | None = None
    last: StepFigures | None = None
    real_tokens: int = 0
    throughput: Throughput = field(default_factory=Throughput)

    def add(self, figures: StepFigures) -> None:
        if self.first is None:
            self.first = figures
        else:
            self.throughput.add(figures)
        self.last = figures
        self.real_tokens += figures.real_tokens


@dataclass
class MetricSender:
    """Sends metrics to a tracked run from one background thread; the training thread only appends to a list.

    While the server is away, metrics wait in memory and go with the next batch; `close` sends what is left and raises
    TrackingError if the server still refuses.
    """

    run: Run
    _waiting: list[Metric] = field(default_factory=list)
    _sending: list[Metric] = field(default_factory=list)
    _future: Future[None] | None = None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="metrics"))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        self._waiting.extend(Metric(key, value, step, now) for key, value in values.items())

    def flush(self) -> None:
        """Start sending what waits, unless an earlier batch is still under way."""
        if self._future is not None and not self._future.done():
            return
        self._collect()
        if self._waiting:
            self._sending, self._waiting = self._waiting, []
            self._future = self._pool.submit(self.run.log_metrics, list(self._sending))

    def close(self) -> None:
        """Wait for the batch under way, then send the rest."""
        self._pool.shutdown(wait=True)
        self._collect()
        if self._waiting:
            self.run.log_metrics(self._waiting)
            self._waiting = []

    def _collect(self) -> None:
        """Take back the last batch if it was not delivered."""
        future, self._future = self._future, None
        if future is None:
            return
        try:
            future.result()
        except TrackingError as exc:
            logger.warning("metrics not delivered, kept for the next batch: %s", exc)
            self._waiting = self._sending + self._waiting
        self._sending = []
