"""A plain copy through an S3 store: GET every raw object, PUT objects of given sizes, and nothing else.

    python -m benchmarks.store_copy SOURCE DESTINATION SIZES WORKERS

SOURCE and DESTINATION are `s3://bucket/prefix`, SIZES is a JSON list of bytes. Prints a JSON object; starting the
processes and their clients is not counted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from typing import Any

from packing.adapters.s3 import s3_client

_PATIENCE = 600.0


def main() -> None:
    """Copy, and print the seconds."""
    source, destination, sizes_text, workers_text = sys.argv[1:]
    workers = int(workers_text)
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [entry["Key"] for page in pages for entry in page["Contents"]]
    sizes = sorted(json.loads(sizes_text), reverse=True)
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(workers + 1)
    processes = [
        context.Process(target=_copy, args=(ready, bucket, keys[i::workers], destination, sizes[i::workers], i))
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    ready.wait(_PATIENCE)
    started = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - started
    if any(process.exitcode for process in processes):
        raise SystemExit("a copying process failed")
    sys.stdout.write(json.dumps({"objects": len(keys), "bytes": sum(sizes), "seconds": seconds}) + "\n")


def _copy(
    ready: Barrier, bucket: str, keys: Sequence[str], destination: str, sizes: Sequence[int], worker: int
) -> None:
    client = s3_client()
    client.list_buckets()
    content = os.urandom(max(sizes, default=0))
    ready.wait(_PATIENCE)
    # Reading and writing by turns, as a packer does.
    for number in range(max(len(keys), len(sizes))):
        if number < len(keys):
            _read(client, bucket, keys[number])
        if number < len(sizes):
            to, _, prefix = destination.removeprefix("s3://").partition("/")
            body = memoryview(content)[: sizes[number]]
            client.put_object(Bucket=to, Key=f"{prefix}/{worker}-{number}", Body=bytes(body))


def _read(client: Any, bucket: str, key: str) -> None:
    body = client.get_object(Bucket=bucket, Key=key)["Body"]
    for _ in body.iter_chunks(1024 * 1024):
        pass


if __name__ == "__main__":
    main()
