"""PostgreSQL and Redis of the tests' own, from Debian's packages: on 127.0.0.1 and free ports, nothing is kept."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from demo.errors import DemoError
from demo.processes import Supervisor, free_port
from demo.waiting import wait_until

START_SECONDS = 60
USER = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this user for it. Also the role and the database."""


@contextmanager
def database_folder() -> Iterator[Path]:
    """A folder that goes with the block, for PostgreSQL's own user, who cannot enter pytest's folders of root."""
    with tempfile.TemporaryDirectory(prefix="stowage-postgresql-") as name:
        if is_root():
            shutil.chown(name, USER, USER)
        yield Path(name)


def start_postgresql(supervisor: Supervisor, folder: Path, environment: Mapping[str, str]) -> str:
    """Serve a new database from `folder`; returns its URL for SQLAlchemy."""
    port, password = free_port(), secrets.token_hex(16)
    data, password_file = folder / "data", folder / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password, encoding="utf-8")
    if is_root():
        shutil.chown(password_file, USER, USER)
    options = [f"--pgdata={data}", f"--username={USER}", f"--pwfile={password_file}", "--auth=scram-sha-256"]
    command = [program("initdb"), *options, "--encoding=UTF8", "--locale=C", "--no-sync"]
    supervisor.start_job("initdb", as_database_user(command), environment).wait()
    address = ["-h", "127.0.0.1", "-p", str(port)]
    command = [program("postgres"), "-D", str(data), *address, "-k", str(folder), "-c", "fsync=off"]
    supervisor.start("postgresql", as_database_user(command), environment)

    def ready() -> bool:
        return subprocess.run([program("pg_isready"), "--quiet", *address], check=False).returncode == 0

    wait_until(ready, "PostgreSQL", supervisor, START_SECONDS)
    return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{port}/{USER}"


def start_redis(supervisor: Supervisor, folder: Path, environment: Mapping[str, str]) -> str:
    """A Redis that keeps nothing on disk; returns its URL for Celery."""
    port = free_port()
    command = [program("redis-server"), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    supervisor.start("redis", command, environment)
    wait_until(lambda: _answers_ping(port), "Redis", supervisor, START_SECONDS)
    return f"redis://127.0.0.1:{port}/0"


def program(name: str) -> str:
    """Where a server's program is; Debian keeps PostgreSQL's outside of the PATH, by version."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(versions[-1]) if versions else None)
    if found is None:
        raise DemoError(f"{name}: not found; run `make servers`, or install PostgreSQL and Redis")
    return found


def is_root() -> bool:
    return os.geteuid() == 0


def as_database_user(command: list[str]) -> list[str]:
    """The command as a user that PostgreSQL agrees to, still stopped with the process that starts it."""
    if not is_root():
        return command
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--pdeathsig=keep", *command]


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
