"""`python -m training` with a tracker that prints every metric, `[key, step, value]` a line, as it is handed over.

python -m tests.training.printing train --data MANIFEST ...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping

from packing.adapters import open_storage, open_tracker
from packing.in_memory import MemoryRun, MemoryTracker
from packing.ports import Metric, Tracker
from training.cli import build_parser, run


class PrintingRun(MemoryRun):
    """Prints metrics in place of keeping them."""

    def log_metrics(self, metrics: Iterable[Metric]) -> None:
        for metric in metrics:
            sys.stdout.write(json.dumps([metric.key, metric.step, metric.value]) + "\n")
        sys.stdout.flush()


class PrintingTracker(MemoryTracker):
    """Knows every run, as a server would that outlives the process."""

    def start_run(self, experiment: str, name: str, *, params: Mapping[str, str], tags: Mapping[str, str]) -> MemoryRun:
        return PrintingRun("run", experiment, name, dict(params), dict(tags))

    def open_run(self, run_id: str) -> MemoryRun:
        return PrintingRun(run_id, "", "", {}, {})


def main() -> int:
    """Gives the exit status of `python -m training`."""
    return run(build_parser().parse_args(), open_storage, _open_tracker)


def _open_tracker(uri: str | None) -> Tracker:
    return PrintingTracker() if uri else open_tracker(None)


if __name__ == "__main__":
    sys.exit(main())
