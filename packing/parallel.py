"""Running one stage function over many items: in this process with the storage at hand, or in worker processes.

Workers open their own storage. Results come back in the order of the items, but the error of any item is raised as soon
as it is known, and ends the others, which clean up what they were writing. No worker outlives this process, however it
ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import SimpleQueue
from types import FrameType
from typing import Any, Protocol, TypeVar

from packing.errors import StowageError
from packing.ports import Storage

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOKUPS = 16
"""Small requests under way at a time."""

CLEANUP_SECONDS = 2.0
"""How long a worker that is told to end may take."""

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


def threads(storage: Storage, count: int) -> StageMap:
    """`count` items at a time, in threads of this process: for many small requests, which mostly wait."""

    def run(function: Callable[[Storage, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        pool = ThreadPoolExecutor(count)
        try:
            yield from _in_order(pool, partial(function, storage), items)
        finally:
            pool.shutdown(cancel_futures=True)

    return run


@contextmanager
def process_pool(workers: int, open_storage: Callable[[], Storage]) -> Iterator[StageMap]:
    """Up to `workers` processes, each with its own storage from `open_storage` (a module-level function).

    They start when there are items for them, and stay for the next stage.
    """
    context = _PoolContext()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(open_storage,))

    def run(function: Callable[[Storage, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        try:
            yield from _in_order(pool, partial(_in_worker, function), items)
        except BrokenProcessPool as exc:
            raise StowageError(
                "a worker process died (out of memory, or killed); run again with fewer workers or smaller partitions"
            ) from exc

    try:
        yield run
    except BaseException:
        _end([worker for worker in context.started if worker.pid is not None])
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: Executor, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """The results in the order of the items; the first error of any of them comes instead of a result not yet there."""
    finished: SimpleQueue[Future[Result]] = SimpleQueue()
    futures: deque[Future[Result]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        futures[-1].add_done_callback(finished.put)
    while futures:
        while not futures[0].done():
            finished.get().result()  # of any item, perhaps of one that was given out before: it raises or means nothing
        yield futures.popleft().result()


class _PoolContext(SpawnContext):
    """Remembers the processes that it starts: this process may have other children.

    They are spawned, as forking a process that already runs threads (boto3, progress bars) can deadlock the child.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *arguments: Any, **options: Any) -> SpawnProcess:  # type: ignore[override] # noqa: N802 - a class there
        process = SpawnProcess(*arguments, **options)
        self.started.append(process)
        return process


def _end(workers: Sequence[SpawnProcess]) -> None:
    """Tell the workers to clean up and end; one that does not (a long computation hears no signal) is killed."""
    deadline = time.monotonic() + CLEANUP_SECONDS
    for worker in workers:
        worker.terminate()
    try:
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            worker.kill()


_storage: Storage | None = None


def _start_worker(open_storage: Callable[[], Storage]) -> None:
    global _storage  # noqa: PLW0603 - what a process pool's initializer makes can live nowhere else
    # A terminal's Ctrl-C reaches the workers too; the parent ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _storage = open_storage()
    # Not before: there is nothing to clean up yet, and the pool would print what an initializer raises.
    signal.signal(signal.SIGTERM, _unwind)


def _unwind(number: int, _: FrameType | None) -> None:
    """Leave through every `finally`, undisturbed by further signals."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(CLEANUP_SECONDS)
        os._exit(1)


def _in_worker(function: Callable[[Storage, Item], Result], item: Item) -> Result:
    if _storage is None:
        raise StowageError("a worker process has no storage; this is a bug")
    try:
        return function(_storage, item)
    except SystemExit:
        # The pool would take it for the item's result, and go on with the next item.
        os._exit(1)
