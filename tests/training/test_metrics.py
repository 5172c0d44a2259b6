from __future__ import annotations

from collections.abc import Iterable

import pytest

from packing.errors import TrackingError
from packing.ports import MemoryRun, Metric
from training.metrics import MetricSender, StepFigures, Throughput, Totals


class AbsentServerRun(MemoryRun):
    """Refuses the first `failures` batches."""

    failures = 1

    def log_metrics(self, metrics: Iterable[Metric]) -> None:
        if self.failures:
            self.failures -= 1
            raise TrackingError("the server is away")
        super().log_metrics(metrics)


def figures(step: int, seconds: float) -> StepFigures:
    return StepFigures(step, 10 * step, 4, 10, 300, 9.0, 0.1, 0.7, 0.5, 1.0, 0.01, seconds)


def values(run: MemoryRun) -> list[tuple[str, int, float]]:
    return [(metric.key, metric.step, metric.value) for metric in run.metrics]


def test_metrics_arrive_in_order_in_batches() -> None:
    run = MemoryRun("r", "e", "n", {}, {})
    sender = MetricSender(run)
    for step in (1, 2, 3):
        sender.add(step, {"loss": float(step)})
        sender.flush()
    sender.close()
    assert values(run) == [("loss", 1, 1.0), ("loss", 2, 2.0), ("loss", 3, 3.0)]


def test_metrics_wait_while_the_server_is_away() -> None:
    run = AbsentServerRun("r", "e", "n", {}, {})
    sender = MetricSender(run)
    sender.add(1, {"loss": 1.0})
    sender.flush()
    sender.add(2, {"loss": 2.0})
    sender.close()
    assert values(run) == [("loss", 1, 1.0), ("loss", 2, 2.0)]


def test_metrics_that_cannot_be_delivered_at_the_end_are_an_error() -> None:
    run = AbsentServerRun("r", "e", "n", {}, {})
    run.failures = 2
    sender = MetricSender(run)
    sender.add(1, {"loss": 1.0})
    sender.flush()
    with pytest.raises(TrackingError, match="away"):
        sender.close()


def test_totals_leave_the_first_step_out_of_the_throughput() -> None:
    totals = Totals()
    for step, seconds in ((1, 100.0), (2, 0.5), (3, 1.5)):
        totals.add(figures(step, seconds))
    assert totals.real_tokens == 900
    assert (totals.first, totals.last) == (figures(1, 100.0), figures(3, 1.5))
    assert totals.throughput.rates() == {
        "throughput/sequences_per_second": 10.0,
        "throughput/packs_per_second": 4.0,
        "throughput/real_tokens_per_second": 300.0,
    }


def test_no_step_has_no_rate() -> None:
    assert Throughput().rates() == {}
