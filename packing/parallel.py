"""Running one stage function over many items: in this process with the storage at hand, or in worker processes.

Workers open their own storage; results come back in the order of the items; an error in a worker is raised here, and
ends the others. No worker outlives this process, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

from packing.errors import StowageError
from packing.ports import Storage

Item = TypeVar("Item")
Result = TypeVar("Result")


Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how many of its items are done, and how many there are."""


class StageMap(Protocol):
    """`map` of a stage function over its items; the function gets a storage first."""

    def __call__(self, function: Callable[[Storage, Item], Result], items: Sequence[Item]) -> Iterator[Result]: ...


def tracked(progress: Progress | None, stage: str, results: Iterator[Result], total: int) -> list[Result]:
    """All results of a stage, telling `progress` of each."""
    collected: list[Result] = []
    if progress:
        progress(stage, 0, total)
    for result in results:
        collected.append(result)
        if progress:
            progress(stage, len(collected), total)
    return collected


def serial(storage: Storage) -> StageMap:
    """One item after the other, in this process."""

    def run(function: Callable[[Storage, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        return (function(storage, item) for item in items)

    return run


@contextmanager
def process_pool(workers: int, open_storage: Callable[[], Storage]) -> Iterator[StageMap]:
    """`workers` processes, each with its own storage from `open_storage` (a module-level function)."""
    # Forking a process that already runs threads (boto3, progress bars) can deadlock the child.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(open_storage,))

    def run(function: Callable[[Storage, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        try:
            yield from pool.map(partial(_in_worker, function), items)
        except BrokenProcessPool as exc:
            raise StowageError(
                "a worker process died (out of memory, or killed); run again with fewer workers or smaller partitions"
            ) from exc

    try:
        yield run
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_storage: Storage | None = None


def _start_worker(open_storage: Callable[[], Storage]) -> None:
    global _storage  # noqa: PLW0603 - what a process pool's initializer makes can live nowhere else
    # A terminal's Ctrl-C reaches the workers too; the parent ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _storage = open_storage()


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_worker(function: Callable[[Storage, Item], Result], item: Item) -> Result:
    if _storage is None:
        raise StowageError("a worker process has no storage; this is a bug")
    return function(_storage, item)
