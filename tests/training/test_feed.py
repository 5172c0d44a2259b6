from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from itertools import islice
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import InputError
from training.feed import Slices, read_batches
from training.order import EMPTY, Order, Sizes, Window, in_order

SIZES = Sizes(
    np.array([7, 1, 5, 9]), np.array([2, 1, 2, 3]), tuple(np.arange(1, n + 1, dtype=np.int32) for n in (7, 1, 5, 9))
)


def open_shards(window: Window, _: Event) -> Any:
    """Records that say which they are."""
    return [[f"{shard}/{record}".encode() for record in range(SIZES.counts[shard])] for shard in window.shards]


def batches(order: Order, own: Sequence[int], replicas: int, start: int = 0) -> Iterator[tuple[list[bytes], int]]:
    slices = Slices(order.batch_size // replicas, replicas, own)
    return read_batches(order.windows(start), open_shards, slices, start=start)


orders = st.builds(
    Order,
    st.just([SIZES]),
    batch_size=st.sampled_from([6, 12, 24]),
    seed=st.integers(0, 5),
    window_bytes=st.sampled_from([None, 1, 3, 5]),
    bucket_width=st.sampled_from([None, 3]),
)


@given(order=orders, start=st.integers(0, 9))
def test_one_replica_reads_the_rows_of_the_order(order: Order, start: int) -> None:
    rows: list[bytes | None] = []
    position = start * order.batch_size
    for window in order.windows(start):
        records = open_shards(window, Event())
        own = window.rows[max(position - window.first, 0) :].tolist()
        rows += [None if entry == EMPTY else records[entry][record] for entry, record in own]
        if len(rows) >= 5 * order.batch_size:
            break
    steps = [rows[step * order.batch_size :][: order.batch_size] for step in range(5)]
    found = [batch for batch, _ in islice(batches(order, [0], 1, start), 5)]
    assert found == [[example for example in step if example is not None] for step in steps]


@given(order=orders, start=st.integers(0, 9), replicas=st.sampled_from([1, 2, 3, 6]), workers=st.data())
def test_the_slices_of_all_replicas_are_the_whole_step(
    order: Order, start: int, replicas: int, workers: st.DataObject
) -> None:
    """Whichever processes the replicas belong to."""
    per_worker = workers.draw(st.sampled_from([n for n in range(1, replicas + 1) if replicas % n == 0]))
    together: list[list[tuple[list[bytes], int]]] = []
    for first in range(0, replicas, per_worker):
        own = range(first, first + per_worker)
        found = iter(batches(order, own, replicas, start))
        together.append([next(found) for _ in range(4 * per_worker)])
    whole = list(islice(batches(order, [0], 1, start), 4))
    for step, (examples, width) in enumerate(whole):
        slices = [worker[step * per_worker + own] for worker in together for own in range(per_worker)]
        assert [example for batch, _ in slices for example in batch] == examples
        assert max(len(batch) for batch, _ in slices) <= order.batch_size // replicas
        assert {width_of_slice for _, width_of_slice in slices} == {width}


def test_a_width_tells_the_bucket_of_its_step() -> None:
    order = Order([SIZES], 6, seed=0, bucket_width=3)
    for examples, width in islice(batches(order, [0], 1), 20):
        lengths = [int(example.split(b"/")[1]) + 1 for example in examples]
        assert width - 3 < min(lengths) <= max(lengths) <= width


@given(size=st.integers(1, 9), replicas=st.integers(1, 4), limit=st.none() | st.integers(1, 25))
def test_an_evaluation_gives_every_replica_as_many_batches(size: int, replicas: int, limit: int | None) -> None:
    def of(own: Sequence[int]) -> list[list[bytes]]:
        windows = in_order(SIZES, batch_size=size * replicas, window_bytes=3, limit=limit)
        slices = Slices(size, replicas, own)
        return [batch for batch, _ in read_batches(windows, open_shards, slices, start=0)]

    alone = [of([replica]) for replica in range(replicas)]
    assert len({len(batches) for batches in alone}) == 1
    found = [example for step in zip(*alone, strict=True) for batch in step for example in batch]
    everything = [f"{shard}/{record}".encode() for shard, count in enumerate(SIZES.counts) for record in range(count)]
    assert found == everything[:limit]
    assert all(len(batch) == size for step in list(zip(*alone, strict=True))[:-1] for batch in step)
    assert [batch for step in zip(*alone, strict=True) for batch in step] == of(range(replicas))


class Opened(list[Any]):
    """The records of a window, which can be seen to be gone."""


def test_the_next_window_is_opened_while_one_is_read_and_no_further_one() -> None:
    opened: list[weakref.ref[Opened]] = []
    open_at_a_time: list[int] = []
    begun = [Event() for _ in range(100)]

    def open_one(window: Window, stopped: Event) -> Any:
        records = Opened(open_shards(window, stopped))
        opened.append(weakref.ref(records))
        open_at_a_time.append(sum(one() is not None for one in opened))
        begun[len(opened) - 1].set()
        return records

    order = Order([SIZES], 1, seed=0, window_bytes=1)
    found = read_batches(order.windows(0), open_one, Slices(1, 1, [0]), start=0)
    for number, window in enumerate(islice(order.windows(0), 5)):
        for _ in window.rows:
            next(found)
            assert begun[number + 1].wait(30)
            assert len(opened) == number + 2
    assert open_at_a_time == [1, 2, 2, 2, 2, 2]


def test_a_window_is_let_go_before_the_next_one_is_waited_for() -> None:
    opened: list[weakref.ref[Opened]] = []
    gone: list[bool] = []

    def is_gone(records: weakref.ref[Opened]) -> bool:
        deadline = time.monotonic() + 10
        while records() is not None and time.monotonic() < deadline:
            time.sleep(0.001)
        return records() is None

    def open_one(window: Window, stopped: Event) -> Any:
        """Open it when the window before it is gone, for which the reader has to ask for this one first."""
        gone.extend(is_gone(before) for before in opened[-1:])
        records = Opened(open_shards(window, stopped))
        opened.append(weakref.ref(records))
        return records

    order = Order([SIZES], 1, seed=0, window_bytes=1)
    found = read_batches(order.windows(0), open_one, Slices(1, 1, [0]), start=0)
    for _ in range(sum(len(window.rows) for window in islice(order.windows(0), 3)) + 1):
        next(found)
    assert gone[:3] == [True, True, True]


def test_who_stops_tells_the_opening_of_the_next_window() -> None:
    opening: list[Event] = []
    begun = Event()

    def open_one(window: Window, stopped: Event) -> Any:
        opening.append(stopped)
        if len(opening) == 2:
            begun.set()
        return open_shards(window, stopped)

    found = read_batches(Order([SIZES], 1, seed=0).windows(0), open_one, Slices(1, 1, [0]), start=0)
    next(found)
    assert begun.wait(30)
    assert not opening[-1].is_set()
    found.close()  # type: ignore[attr-defined]
    assert opening[-1].is_set()


def test_an_error_of_the_opening_thread_comes_where_its_window_begins() -> None:
    def open_one(window: Window, stopped: Event) -> Any:
        if window.first:
            raise InputError("the second window")
        assert threading.current_thread() is not threading.main_thread()
        return open_shards(window, stopped)

    order = Order([SIZES], 1, seed=0, window_bytes=1)
    found = read_batches(order.windows(0), open_one, Slices(1, 1, [0]), start=0)
    for _ in range(next(order.windows(0)).stop):
        next(found)
    with pytest.raises(InputError, match="the second window"):
        next(found)
