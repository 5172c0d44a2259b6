"""A refresh without a spool, so that its write stage, as in a DAG, reads what it needs from the store.

    python -m benchmarks.write_stage SOURCE DESTINATION WORKERS

Prints a JSON object with the seconds of each stage, from when its first item is handed out to when its last is done.
"""

from __future__ import annotations

import json
import sys
import time

from packing.adapters import open_storage
from packing.parallel import LOOKUPS, process_pool, threads
from packing.pipeline import Stages, refresh
from packing.types import Parameters


def main() -> None:
    """Refresh, and print how long each stage took."""
    source, destination, workers = sys.argv[1:]
    storage = open_storage()
    began: dict[str, float] = {}
    ended: dict[str, float] = {}

    def note(stage: str, done: int, _: int) -> None:
        (ended if done else began)[stage] = time.perf_counter()

    with process_pool(int(workers), open_storage) as work:
        stages = Stages(threads(storage, LOOKUPS), work, spool=None, progress=note)
        outcome = refresh(storage, stages, source, destination, Parameters())
    if outcome.partitions_written != len(outcome.recipe.partitions):
        raise SystemExit(f"{destination}: expected nothing there yet, found packed partitions")
    result = {f"{stage}_seconds": ended[stage] - began[stage] for stage in ("scan", "solve", "write")}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
