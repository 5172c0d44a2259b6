"""A refresh stage by stage, as the tasks of a DAG run it: every stage reads what it needs from the store.

    python -m benchmarks.write_stage SOURCE DESTINATION WORKERS

Prints a JSON object with the seconds of each stage; starting the processes is not counted.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial

from packing.adapters import open_storage
from packing.parallel import process_pool
from packing.scan import list_raw_shards, scan_shard
from packing.solve import solve_recipe
from packing.types import Parameters
from packing.write import write_if_missing


def main() -> None:
    """Scan, solve, write, and print how long each took."""
    source, destination, workers = sys.argv[1:]
    storage, parameters = open_storage(), Parameters()
    shards = list_raw_shards(storage, source)
    by_name = {shard.name: shard for shard in shards}
    with process_pool(int(workers), open_storage) as stage_map:
        clock = [time.perf_counter()]
        summaries = list(stage_map(partial(scan_shard, destination=destination), shards))
        clock.append(time.perf_counter())
        recipe = solve_recipe(storage, stage_map, destination, parameters, summaries)
        clock.append(time.perf_counter())
        write = partial(write_if_missing, destination=destination, parameters=parameters, raw_shards=by_name)
        written = list(stage_map(write, recipe.partitions))
        clock.append(time.perf_counter())
    if not all(written):
        raise SystemExit(f"{destination}: expected nothing there yet, found packed partitions")
    scan, solve, wrote = (after - before for before, after in zip(clock, clock[1:], strict=False))
    sys.stdout.write(json.dumps({"scan_seconds": scan, "solve_seconds": solve, "write_seconds": wrote}) + "\n")


if __name__ == "__main__":
    main()
