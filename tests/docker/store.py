"""The S3 server of the Compose file, started by its command on 127.0.0.1."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from demo.processes import Supervisor, free_port
from demo.stack import plain_environment
from demo.waiting import wait_until
from tests.docker.stack import service

START_SECONDS = 240
ENTRYPOINT = ["server", "-master.volumePreallocate", "-master.volumeSizeLimitMB=1024"]
"""What the entrypoint of SeaweedFS' image puts before the options of `server`."""


def start_store(supervisor: Supervisor, folder: Path, identities: str) -> str:
    """Serve from `folder` for the users of `identities`, which is SeaweedFS' JSON; returns the URL."""
    users = folder / "s3.json"
    users.write_text(identities, encoding="utf-8")
    port = free_port()
    here = {"-dir": folder, "-ip": "127.0.0.1", "-ip.bind": "127.0.0.1", "-s3.port": port, "-s3.config": users}
    ports = [f"-{server}.port{kind}" for server in ("master", "volume", "filer") for kind in ("", ".grpc")]
    further = [f"{name}={free_port()}" for name in (*ports, "-s3.port.grpc")]
    server, *options = replaced(service("s3")["command"], here)
    assert server == ENTRYPOINT[0]
    command = [str(Path(sys.executable).with_name("weed")), *ENTRYPOINT, *options, *further]
    supervisor.start("seaweedfs", command, plain_environment(os.environ))
    wait_until(lambda: _is_healthy(port), "SeaweedFS", supervisor, START_SECONDS)
    return f"http://127.0.0.1:{port}"


def replaced(command: list[str], options: Mapping[str, object]) -> list[str]:
    """`command` with other values for options that it has."""
    assert options.keys() <= {word.partition("=")[0] for word in command}
    return [f"{name}={options[name]}" if (name := word.partition("=")[0]) in options else word for word in command]


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
