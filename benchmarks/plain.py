"""Plain reading and writing of as many bytes as a packer reads and writes, which is what it cannot beat."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

_CHUNK = 1024 * 1024


def copy_locally(source: Path, sizes: Sequence[int], destination: Path) -> float:
    """Read the files of `source`, write files of `sizes` bytes, each flushed to disk; seconds."""
    buffer = bytearray(os.urandom(_CHUNK))
    view = memoryview(buffer)
    destination.mkdir(parents=True)
    started = time.perf_counter()
    for path in sorted(source.iterdir()):
        with path.open("rb", buffering=0) as file:
            while file.readinto(view):
                pass
    for number, size in enumerate(sizes):
        with (destination / f"{number}").open("wb", buffering=0) as file:
            for start in range(0, size, _CHUNK):
                file.write(view[: min(_CHUNK, size - start)])
            os.fsync(file.fileno())
    return time.perf_counter() - started
