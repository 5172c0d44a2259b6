from __future__ import annotations

import math

import pytest

from training.system_metrics import SystemMetrics, open_system_metrics


class Monitor:
    """Counts its samples; fails from the third on, if it `fails`."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name, self.fails, self.samples, self.waiting = name, fails, 0, 0

    def collect_metrics(self) -> None:
        self.samples += 1
        self.waiting += 1
        if self.fails and self.samples >= 3:
            raise OSError("no such device")

    def aggregate_metrics(self) -> dict[str, float]:
        assert self.waiting == 1
        return {self.name: self.samples}

    def clear_metrics(self) -> None:
        self.waiting = 0


def test_a_monitor_that_fails_is_left_out_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    sample = SystemMetrics([Monitor("a", fails=True), Monitor("b")])
    assert [sample() for _ in range(3)] == [
        {"system/a": 2.0, "system/b": 2.0},
        {"system/b": 3.0},
        {"system/b": 4.0},
    ]
    assert len(caplog.records) == 1
    assert "Monitor: OSError('no such device')" in caplog.text


@pytest.mark.slow
def test_figures_bear_the_names_that_mlflow_gives_them() -> None:
    pytest.importorskip("mlflow")
    sample = open_system_metrics()
    names = {
        "cpu_utilization_percentage",
        "system_memory_usage_megabytes",
        "system_memory_usage_percentage",
        "disk_usage_percentage",
        "network_receive_megabytes",
        "network_transmit_megabytes",
    }
    for _ in range(2):
        values = sample()
        assert {f"system/{name}" for name in names} <= values.keys()
        assert all(math.isfinite(value) for value in values.values())
    assert values["system/system_memory_usage_megabytes"] > 0
