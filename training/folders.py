"""Folders on this machine in which a command works."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from packing.errors import UsageError
from packing.jsonio import digest
from packing.uris import absolute

WAIT_SECONDS = 60.0
"""For a process that was stopped to save and end, so that the next one goes on in its folder."""

_LOCK = "lock"
_POLL_SECONDS = 0.1

logger = logging.getLogger(__name__)


def work_folder(place: str, worker: int) -> Path:
    """Of one process of a run with model folder `place`, a URI: in it, or in the user's cache if it is in a store."""
    home = Path(place) if "://" not in place else user_cache(place)
    return home / f"worker-{worker}"


def user_cache(*names: str) -> Path:
    """A folder in the user's cache that is always the same for the same names."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "stowage" / digest(names)[:16]


def local_folder(name: str) -> Path:
    """What an option says; raises UsageError for a store."""
    folder = absolute(name)
    if "://" in folder:
        raise UsageError(f"{name}: expected a local folder")
    return Path(folder)


@contextmanager
def held(folder: Path, *, temporary: bool = False, wait_seconds: float = WAIT_SECONDS) -> Iterator[Path]:
    """Make the folder and be alone in it; the system lets go of it when the process ends, however that comes.

    A `temporary` one is removed if all went well. Raises UsageError if another process has it and keeps it.
    """
    with _locked(folder, time.monotonic() + wait_seconds):
        yield folder
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path, deadline: float) -> BinaryIO:
    for attempt in itertools.count():
        file = _lock_file(folder)  # anew each time, as who had a temporary folder has removed it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.close()
            if time.monotonic() >= deadline:
                raise UsageError(f"{folder}: another process works there; end it first") from exc
        else:
            break
        if attempt == 0:
            logger.info("%s: another process works there; waiting for its end", folder)
        time.sleep(_POLL_SECONDS)
    return file


def _lock_file(folder: Path) -> BinaryIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / _LOCK).open("wb")
    except OSError as exc:
        raise UsageError(f"{folder}: cannot be made ({exc.strerror}); check its parent's permissions") from exc
