"""Work in threads that a process does not wait for when it ends, as it would for those of an executor.

A run that is told to stop saves and exits at once, whatever is being fetched for its next steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any, TypeVar

from packing.errors import StowageError

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_SECONDS = 0.25


class StoppedError(StowageError):
    """Nobody wants any more what was being made."""


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """`function` of all items, `threads` at a time; the first error of any is raised, and no other item begun."""
    numbers, stopped = iter(range(len(items))), Event()
    done: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        while not stopped.is_set() and (number := next(numbers, None)) is not None:
            result, error = _outcome(lambda: function(items[number]))
            if error:
                stopped.set()
            done.put((number, result, error))

    for _ in range(min(threads, len(items))):
        Thread(target=work, daemon=True).start()
    results: dict[int, Result] = {}
    try:
        while len(results) < len(items):
            number, result, error = done.get()
            if error:
                raise error
            results[number] = result
    finally:
        stopped.set()
    return [results[number] for number in range(len(items))]


def read_ahead(items: Iterable[Item], stopped: Callable[[], bool] = lambda: False) -> Iterator[Item]:
    """The same items, each made while the one before it is in use; its errors are raised in its place.

    Nothing is kept of an item that the caller has dropped when it asks for the next one. Whoever waits for an item gets
    a StoppedError soon after `stopped` is true.
    """
    source = iter(items)
    wanted, closed = Semaphore(1), Event()
    made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        while wanted.acquire() and not closed.is_set():
            made.put(_outcome(lambda: next(source)))

    Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = _wait(made, stopped)
            if isinstance(error, StopIteration):
                return
            if error:
                raise error
            wanted.release()
            yield item
            del item
    finally:
        closed.set()
        wanted.release()


def _wait(made: SimpleQueue[Result], stopped: Callable[[], bool]) -> Result:
    while not stopped():
        try:
            return made.get(timeout=_LOOK_SECONDS)
        except Empty:
            pass
    raise StoppedError("nobody waits for this any more")


def _outcome(function: Callable[[], Result]) -> tuple[Result | None, BaseException | None]:
    try:
        return function(), None
    except BaseException as exc:  # noqa: BLE001 - raised again in the thread that waits for it
        return None, exc
