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
    """A running S3 server that keeps bucket B in the folder B of `folder`; its log names every request."""

    folder: Path
    log: Path
    environment: dict[str, str]
    client: Any

    def path(self, uri: str) -> Path:
        """The file behind an object."""
        return self.folder / uri.removeprefix("s3://")

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
        yield Store(folder, logs / "object-store.log", {**environment, **server.environment}, client)
