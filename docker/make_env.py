"""Prints docker/env.example with a random value for each name, for `docker compose --env-file`."""

from __future__ import annotations

import base64
import secrets
import sys
from pathlib import Path

EXAMPLE = Path(__file__).with_name("env.example")


def filled(example: str) -> str:
    """`example`, whose lines end in `NAME=`, with values of 32 random bytes."""
    return "".join(f"{_line(line)}\n" for line in example.splitlines() if not line.startswith("#"))


def _line(line: str) -> str:
    if not line.endswith("="):
        return line
    if line == "AIRFLOW_FERNET_KEY=":
        return line + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return line + secrets.token_hex(32)


if __name__ == "__main__":
    sys.stdout.write(filled(EXAMPLE.read_text(encoding="utf-8")))
