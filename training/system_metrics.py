"""Figures of this machine, measured by MLflow's own monitors, so that its interface shows them where it always does."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import import_module
from typing import Any

logger = logging.getLogger(__name__)

_MONITORS = (
    ("cpu_monitor", "CPUMonitor"),
    ("disk_monitor", "DiskMonitor"),
    ("network_monitor", "NetworkMonitor"),
    ("gpu_monitor", "GPUMonitor"),
    ("rocm_monitor", "ROCMMonitor"),
)


class SystemMetrics:
    """A sample of all monitors at each call; one that fails is left out from then on, as training matters more."""

    def __init__(self, monitors: Iterable[Any]) -> None:
        """`monitors` are MLflow's, or have the same three methods."""
        self._monitors = list(monitors)
        # CPU utilization is measured from call to call.
        self()

    def __call__(self) -> dict[str, float]:
        """Values by metric name, such as `system/cpu_utilization_percentage`."""
        values: dict[str, float] = {}
        for monitor in tuple(self._monitors):
            try:
                monitor.collect_metrics()
                values.update(monitor.aggregate_metrics())
                monitor.clear_metrics()
            except Exception as exc:  # noqa: BLE001 - psutil and drivers fail in too many ways to name
                logger.warning("no more system metrics from %s: %r", type(monitor).__name__, exc)
                self._monitors.remove(monitor)
        return {f"system/{name}": float(value) for name, value in values.items()}


def open_system_metrics() -> SystemMetrics:
    """All that this machine has: CPU, memory, disk, network; GPUs where `nvidia-ml-py` or `pyrsmi` is installed."""
    monitors = []
    for module, name in _MONITORS:
        try:
            monitors.append(getattr(import_module(f"mlflow.system_metrics.metrics.{module}"), name)())
        except Exception as exc:  # noqa: BLE001 - as above; most machines lack one device or another
            logger.info("no system metrics from %s: %s", name, exc)
    return SystemMetrics(monitors)
