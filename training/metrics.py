"""What a run reports: the figures of each step, and of many."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepFigures:
    """One step, on the host. Losses are means over its masked tokens and its sequences.

    `examples` are those that hold a sequence, `slots` are of all, empty ones included; `seconds` is the wall
    time of the step, of which it waited `input_seconds` for its batch; `flops` is what it computed, 0 if not known.
    A step that is not `timed` was mostly spent on tracing and compiling.
    """

    step: int
    sequences_seen: int
    examples: int
    sequences: int
    real_tokens: int
    slots: int
    mlm_loss: float
    mlm_accuracy: float
    nsp_loss: float
    nsp_accuracy: float
    gradient_norm: float
    learning_rate: float
    seconds: float
    input_seconds: float
    flops: float = 0.0
    loss_scale: float | None = None
    timed: bool = True

    def metrics(self) -> dict[str, float]:
        values = {
            "loss/mlm": self.mlm_loss,
            "loss/nsp": self.nsp_loss,
            "accuracy/mlm": self.mlm_accuracy,
            "accuracy/nsp": self.nsp_accuracy,
            "gradient_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
            "sequences_seen": float(self.sequences_seen),
            "sequences_per_step": float(self.sequences),
            "packs_per_step": float(self.examples),
        }
        return values if self.loss_scale is None else {**values, "loss_scale": self.loss_scale}


@dataclass
class Throughput:
    """Work and wall time of the timed steps that were added."""

    examples: int = 0
    sequences: int = 0
    real_tokens: int = 0
    slots: int = 0
    seconds: float = 0.0
    input_seconds: float = 0.0
    flops: float = 0.0

    def add(self, figures: StepFigures) -> None:
        if not figures.timed:
            return
        self.examples += figures.examples
        self.sequences += figures.sequences
        self.real_tokens += figures.real_tokens
        self.slots += figures.slots
        self.seconds += figures.seconds
        self.input_seconds += figures.input_seconds
        self.flops += figures.flops

    def rates(self, peak_flops: float | None = None) -> dict[str, float]:
        """By metric name, empty before any timed step; MFU if `peak_flops`, of all devices, is given."""
        if not (self.seconds and self.slots):
            return {}
        real = self.real_tokens / self.slots
        rates = {
            "throughput/sequences_per_second": self.sequences / self.seconds,
            "throughput/packs_per_second": self.examples / self.seconds,
            "throughput/real_tokens_per_second": self.real_tokens / self.seconds,
            "throughput/padding_fraction": 1 - real,
            "throughput/input_wait_fraction": self.input_seconds / self.seconds,
        }
        if not (peak_flops and self.flops):
            return rates
        mfu = self.flops / self.seconds / peak_flops
        return {**rates, "throughput/mfu": mfu, "throughput/mfu_real_tokens": mfu * real}


@dataclass
class Totals:
    """The figures of one process: its first and last step, its tokens, its throughput."""

    first: StepFigures | None = None
    last: StepFigures | None = None
    real_tokens: int = 0
    throughput: Throughput = field(default_factory=Throughput)

    def add(self, figures: StepFigures) -> None:
        self.first = self.first or figures
        self.throughput.add(figures)
        self.last = figures
        self.real_tokens += figures.real_tokens
