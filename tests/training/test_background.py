from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from threading import Barrier, BrokenBarrierError, Event

import pytest

from training.background import StoppedError, in_parallel, read_ahead

PATIENCE = 30.0


class Thing:
    """Something that can be seen to be gone."""


def test_results_come_in_the_order_of_the_items_whatever_finishes_first() -> None:
    finished = [Event() for _ in range(4)]
    finished[-1].set()

    def wait_for_the_next(number: int) -> int:
        assert finished[number + 1].wait(PATIENCE)
        finished[number].set()
        return -number

    assert in_parallel(wait_for_the_next, [0, 1, 2], threads=3) == [0, -1, -2]


def test_as_many_run_at_a_time_as_there_are_threads() -> None:
    together = Barrier(3)

    def meet(_: int) -> int:
        return together.wait(PATIENCE)

    assert sorted(in_parallel(meet, range(3), threads=3)) == [0, 1, 2]
    with pytest.raises(BrokenBarrierError):
        in_parallel(lambda _: together.wait(0.05), range(3), threads=2)


def test_an_error_is_raised_and_no_further_item_begun() -> None:
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        in_parallel(fail, range(1000), threads=1)
    assert begun == [0]


def test_no_items_need_no_threads() -> None:
    assert in_parallel(str, [], threads=3) == []


def test_the_next_item_is_made_while_one_is_in_use_and_not_the_one_after_it() -> None:
    begun = [Event() for _ in range(4)]
    things: list[weakref.ref[Thing]] = []
    alive: list[int] = []

    def items() -> Iterator[Thing]:
        for event in begun:
            alive.append(sum(thing() is not None for thing in things))
            event.set()
            thing = Thing()
            things.append(weakref.ref(thing))
            yield thing
            del thing

    ahead = read_ahead(items())
    first = next(ahead)
    assert begun[1].wait(PATIENCE)
    assert not begun[2].wait(0.05)
    del first
    second = next(ahead)
    assert second is things[1]()
    assert begun[2].wait(PATIENCE)
    assert alive == [0, 1, 1]
    ahead.close()


def test_all_items_come_in_order_and_an_error_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("the fourth")

    ahead = read_ahead(items())
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(ahead)
    assert list(read_ahead(range(5))) == list(range(5))


def test_no_thread_is_left_by_who_stops_early() -> None:
    before = set(threading.enumerate())
    ahead = read_ahead(iter(range(100)))
    assert next(ahead) == 0
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    ahead.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_who_waits_for_what_nobody_wants_is_let_go() -> None:
    never, stopped = Event(), Event()

    def items() -> Iterator[int]:
        yield 0
        stopped.set()
        never.wait(PATIENCE)
        yield 1

    ahead = read_ahead(items(), stopped.is_set)
    assert next(ahead) == 0
    with pytest.raises(StoppedError):
        next(ahead)
    assert not never.is_set()
    never.set()
