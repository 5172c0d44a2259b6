"""The spool: sequences that a scan has read, kept on this machine's disk for the write, so that no shard is read twice.

It is a help and never the truth: what is not there is read from the store again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.sequences import ROW_TYPES, SequenceBuffer, Sequences


@dataclass(frozen=True)
class Spool:
    """A folder of one run, shared by its processes, that holds about `capacity` bytes at most."""

    folder: str
    capacity: int

    def save(self, name: str, sequences: Sequences) -> None:
        """Keep these sequences, if there is room."""
        rows = [getattr(sequences, row) for row in ROW_TYPES]
        if self._used() + len(sequences.content) + sum(array.nbytes for array in rows) > self.capacity:
            return
        temporary = Path(self.folder) / f"{secrets.token_hex(8)}.part"
        try:
            with temporary.open("wb") as file:
                for array in (np.array([len(sequences)]), *rows, sequences.content):
                    file.write(array.data)
            temporary.replace(self._path(name))
        except OSError:
            # A full disk costs a second reading and nothing else.
            temporary.unlink(missing_ok=True)

    def holds(self, name: str) -> bool:
        """Whether sequences are kept by this name."""
        return self._path(name).is_file()

    def load(self, name: str, buffer: SequenceBuffer) -> None:
        """Append what is kept by this name to `buffer`."""
        buffer.extend(Sequences(**dict(_arrays(np.memmap(self._path(name), np.uint8, "r")))))

    def _path(self, name: str) -> Path:
        return Path(self.folder) / name

    def _used(self) -> int:
        with os.scandir(self.folder) as entries:
            return sum(entry.stat().st_size for entry in entries if not entry.name.endswith(".part"))


def _arrays(data: npt.NDArray[np.uint8]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Views of what `save` wrote, by name."""
    position = 8
    count = int(data[:position].view(np.int64)[0])
    for name, dtype in ROW_TYPES.items():
        end = position + count * np.dtype(dtype).itemsize
        yield name, data[position:end].view(dtype)
        position = end
    yield "content", data[position:]
