"""Writing a new file that is flushed to disk. The blocks of a large one go there directly, past the page cache.

Nothing reads them again soon, and filling the page cache can cost several times what the disk does.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

DIRECT_BYTES = 8 * 1024 * 1024
"""From this size on; the page cache is quicker with small files."""
STEP_BYTES = 1024 * 1024
"""Of one write, a multiple of the blocks of any disk."""


def fill(handle: int, view: memoryview) -> None:
    """Write all of `view` to a file that was opened for writing and is empty, and flush it; raises OSError."""
    written = _write_directly(handle, view) if len(view) >= DIRECT_BYTES else 0
    while written < len(view):
        written += os.write(handle, view[written:])
    os.fsync(handle)


def _write_directly(handle: int, view: memoryview) -> int:
    """Write whole steps past the page cache, as many as system and file system allow; how many bytes."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    written = 0
    # The disk takes the bytes from memory itself, which has to begin where a block may.
    with mmap.mmap(-1, STEP_BYTES) as aligned:
        try:
            fcntl.fcntl(handle, fcntl.F_SETFL, flags | getattr(os, "O_DIRECT", 0))
            while len(view) - written >= STEP_BYTES:
                aligned[:] = view[written : written + STEP_BYTES]
                count = os.write(handle, aligned)
                written += count
                if count < STEP_BYTES:
                    break
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
        finally:
            fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return written
