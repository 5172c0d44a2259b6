"""The spool: sequences that a scan has read, kept on this machine's disk for the write, so that no shard is read twice.

It is a help and never the truth: what is not there is read from the store again.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.sequences import ROW_TYPES, SequenceBuffer, Sequences

_CRC_BYTES = 8
_LEDGER = "ledger"
"""Name of the file to which all processes append how much they kept, int64 each; faster than asking every file."""


@dataclass(frozen=True)
class Spool:
    """A folder of one run, shared by its processes, that holds about `capacity` bytes at most."""

    folder: str
    capacity: int

    def save(self, name: str, sequences: Sequences) -> None:
        """Keep these sequences, if there is room."""
        rows = [getattr(sequences, row) for row in ROW_TYPES]
        size = len(sequences.content) + sum(array.nbytes for array in rows)
        if self._used() + size > self.capacity:
            return
        content = (np.array([len(sequences)]), *rows, sequences.content)
        crc = reduce(lambda crc, array: zlib.crc32(array.data, crc), content, 0)
        temporary = Path(self.folder) / f"{secrets.token_hex(8)}.part"
        try:
            with temporary.open("wb") as file:
                for array in (np.array([crc]), *content):
                    file.write(array.data)
            with self._path(_LEDGER).open("ab") as ledger:
                ledger.write(np.array([size]).tobytes())
            temporary.replace(self._path(name))
        except OSError:
            # A full disk costs a second reading and nothing else.
            temporary.unlink(missing_ok=True)

    def holds(self, name: str) -> bool:
        """Whether sequences are kept by this name, whole and undamaged."""
        if not self._path(name).is_file():
            return False
        data = self._read(name)
        return len(data) > _CRC_BYTES and zlib.crc32(data[_CRC_BYTES:].data) == int(data[:_CRC_BYTES].view(np.int64)[0])

    def load(self, name: str, buffer: SequenceBuffer) -> None:
        """Append to `buffer` what is held by this name."""
        buffer.extend(Sequences(**dict(_arrays(self._read(name)[_CRC_BYTES:]))))

    def _read(self, name: str) -> npt.NDArray[np.uint8]:
        return np.memmap(self._path(name), np.uint8, "r")

    def _path(self, name: str) -> Path:
        return Path(self.folder) / name

    def _used(self) -> int:
        ledger = self._path(_LEDGER)
        return int(np.fromfile(ledger, np.int64).sum()) if ledger.exists() else 0


def _arrays(data: npt.NDArray[np.uint8]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Views of what `save` wrote behind the checksum, by name."""
    position = 8
    count = int(data[:position].view(np.int64)[0])
    for name, dtype in ROW_TYPES.items():
        end = position + count * np.dtype(dtype).itemsize
        yield name, data[position:end].view(dtype)
        position = end
    yield "content", data[position:]
