"""What measured processes run in: an environment of their own, and where needed an object store of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import fresh
from demo.processes import Supervisor
from demo.servers import start_object_store
from demo.stack import plain_environment, s3_client

BUCKETS = ("raw", "packed")


def plain_surroundings() -> dict[str, str]:
    """The environment without a tracking server, an object store or a proxy."""
    return plain_environment(os.environ)


@dataclass(frozen=True)
class Store:
    """A running S3 server, a client of it, and the environment of others; its log can name every request."""

    log: Path
    environment: dict[str, str]
    client: Any

    def get(self, uri: str) -> bytes:
        """The content of an object."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def empty(self, bucket: str) -> None:
        """Remove all objects of a bucket, through the server, which remembers what it holds."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page.get("Contents", ()):
                self.client.delete_object(Bucket=bucket, Key=entry["Key"])

    def reads(self, bucket: str) -> int:
        """How many requests so far asked for the content of objects of `bucket`."""
        return self.log.read_text(errors="replace").count(f"GET OBJECT Bucket: {bucket} ")


@contextmanager
def object_store(scratch: Path, raw: Path, *, log_requests: bool = False) -> Iterator[Store]:
    """An S3 server with the files of `raw` as `s3://raw/data/...` and an empty bucket `packed`."""
    folder = fresh(scratch / "objects")
    data = fresh(folder / "raw" / "data")
    for path in raw.iterdir():
        os.link(path, data / path.name)
    environment = plain_surroundings()
    logs = fresh(scratch / "logs")
    settings = {**environment, "RCLONE_LOG_LEVEL": "DEBUG" if log_requests else "ERROR"}
    with Supervisor(logs) as supervisor:
        server = start_object_store(supervisor, folder, BUCKETS, settings)
        client = s3_client(server)
        # The server digests what it did not receive itself when it is first listed.
        client.list_objects_v2(Bucket="raw")
        yield Store(logs / "object-store.log", {**environment, **server.environment}, client)
