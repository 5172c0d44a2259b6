from __future__ import annotations

import pytest

from training.metrics import StepFigures, Throughput, Totals

RATES = {
    "throughput/sequences_per_second": 10.0,
    "throughput/packs_per_second": 4.0,
    "throughput/real_tokens_per_second": 300.0,
    "throughput/padding_fraction": 0.25,
    "throughput/input_wait_fraction": 0.125,
}


def figures(step: int, seconds: float, loss_scale: float | None = None, *, timed: bool = True) -> StepFigures:
    return StepFigures(
        step=step,
        sequences_seen=10 * step,
        examples=4,
        sequences=10,
        real_tokens=300,
        slots=400,
        mlm_loss=9.0,
        mlm_accuracy=0.1,
        nsp_loss=0.7,
        nsp_accuracy=0.5,
        gradient_norm=1.0,
        learning_rate=0.01,
        seconds=seconds,
        input_seconds=seconds / 8,
        flops=5e9,
        loss_scale=loss_scale,
        timed=timed,
    )


def test_a_step_is_reported_under_these_names() -> None:
    expected = {
        "loss/mlm": 9.0,
        "loss/nsp": 0.7,
        "accuracy/mlm": 0.1,
        "accuracy/nsp": 0.5,
        "gradient_norm": 1.0,
        "learning_rate": 0.01,
        "sequences_seen": 30.0,
        "sequences_per_step": 10.0,
        "packs_per_step": 4.0,
    }
    assert figures(3, 1.0).metrics() == expected
    assert figures(3, 1.0, loss_scale=1024.0).metrics() == {**expected, "loss_scale": 1024.0}


def test_steps_that_are_not_timed_are_left_out_of_the_throughput() -> None:
    totals = Totals()
    steps = [figures(1, 100.0, timed=False), figures(2, 0.5), figures(3, 90.0, timed=False), figures(4, 1.5)]
    for step in steps:
        totals.add(step)
    assert totals.real_tokens == 1200
    assert (totals.first, totals.last) == (steps[0], steps[-1])
    assert totals.throughput.rates() == RATES


def test_utilization_is_reported_where_the_peak_is_known() -> None:
    throughput = Throughput()
    for step in (1, 2):
        throughput.add(figures(step, 1.0))
    rates = throughput.rates(peak_flops=20e9)
    assert rates.keys() - RATES.keys() == {"throughput/mfu", "throughput/mfu_real_tokens"}
    assert rates["throughput/mfu"] == pytest.approx(0.25)
    assert rates["throughput/mfu_real_tokens"] == pytest.approx(0.25 * 0.75)


def test_no_step_has_no_rate() -> None:
    assert Throughput().rates(peak_flops=1.0) == {}
