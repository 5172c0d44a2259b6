from __future__ import annotations

from collections import Counter
from itertools import pairwise, takewhile

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from training.order import EMPTY, Order, Sizes, Window, group_shards, in_order

WIDTH = 4
Example = tuple[int, int, int]
"""Dataset, shard and record."""

GOLDEN = ((1, 0), [[0, 0], [1, 1], [1, 2], [1, 0], [0, 1]])
GOLDEN_BUCKETS = ((1, 0), [[0, 1], [-1, -1], [1, 2], [1, 0], [0, 0], [1, 1]], [4, 4, 8])


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    counts = draw(st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any))
    size = draw(st.lists(st.integers(1, 50), min_size=len(counts), max_size=len(counts)))
    lengths = tuple(
        np.array(draw(st.lists(st.integers(1, 15), min_size=count, max_size=count)), np.int32) for count in counts
    )
    return Sizes(np.array(counts, np.int64), np.array(size, np.int64), lengths)


@st.composite
def orders(draw: st.DrawFn, width: int | None = None) -> Order:
    return Order(
        draw(st.lists(sizes(), min_size=1, max_size=3)),
        batch_size=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 5)),
        window_bytes=draw(st.none() | st.integers(1, 150)),
        bucket_width=width,
    )


def examples_of(window: Window) -> list[Example | None]:
    return [
        None if entry == EMPTY else (window.data, window.shards[entry], record)
        for entry, record in window.rows.tolist()
    ]


def epochs_of(order: Order, count: int) -> list[list[Window]]:
    """The windows of the first `count` epochs, told apart by the shards that each of them has read."""
    epochs: list[list[Window]] = []
    windows, position = order.windows(0), 0
    for epoch in range(count):
        data = order.data[epoch % len(order.data)]
        wanted, found = set(np.flatnonzero(data.counts).tolist()), set[int]()
        epochs.append([])
        while not wanted <= found:
            epochs[-1].append(next(windows))
            found |= set(epochs[-1][-1].shards)
            assert epochs[-1][-1].first == position
            position = epochs[-1][-1].stop
            assert len(epochs[-1]) <= len(wanted)
    return epochs


def all_of(sizes: Sizes, number: int) -> Counter[Example | None]:
    return Counter((number, shard, record) for shard, count in enumerate(sizes.counts) for record in range(count))


@given(order=orders())
def test_an_epoch_holds_each_example_once_and_nothing_else(order: Order) -> None:
    for epoch, windows in enumerate(epochs_of(order, 2 * len(order.data))):
        number = epoch % len(order.data)
        assert Counter(e for window in windows for e in examples_of(window)) == all_of(order.data[number], number)


@given(order=orders(WIDTH))
def test_an_epoch_in_buckets_holds_each_sequence_once(order: Order) -> None:
    for epoch, windows in enumerate(epochs_of(order, 2 * len(order.data))):
        number = epoch % len(order.data)
        found = Counter(e for window in windows for e in examples_of(window))
        del found[None]
        assert found == all_of(order.data[number], number)


@given(order=orders(WIDTH))
def test_the_sequences_of_a_step_are_of_one_bucket_which_is_not_empty(order: Order) -> None:
    for window in (window for epoch in epochs_of(order, 2) for window in epoch):
        examples = examples_of(window)
        steps = [examples[start : start + order.batch_size] for start in range(0, len(examples), order.batch_size)]
        assert window.first % order.batch_size == 0
        assert window.widths is not None
        incomplete = Counter[int]()
        for step, width in zip(steps, window.widths.tolist(), strict=True):
            lengths = [order.data[e[0]].lengths[e[1]][e[2]] for e in step if e]
            assert len(step) == order.batch_size
            assert lengths
            assert all(width - WIDTH < length <= width for length in lengths)
            incomplete[width] += None in step
        assert max(incomplete.values()) <= 1


@given(width=st.sampled_from([None, WIDTH]), data=st.data(), step=st.integers(0, 40))
def test_the_number_of_a_step_alone_determines_its_rows(width: int | None, data: st.DataObject, step: int) -> None:
    order = data.draw(orders(width))

    def rows(start: int) -> list[Example | None]:
        """Of 30 steps from step `step` on, read from step `start` on."""
        end = (step + 30) * order.batch_size
        windows = list(takewhile(lambda window: window.first < end, order.windows(start)))
        examples = [e for window in windows for e in examples_of(window)]
        return examples[step * order.batch_size - windows[0].first : end - windows[0].first]

    assert len(rows(0)) == 30 * order.batch_size
    assert rows(step) == rows(0)
    assert next(order.windows(step)).stop > step * order.batch_size


@given(order=orders(), step=st.integers(0, 40))
def test_the_shards_of_a_step_are_those_of_its_rows(order: Order, step: int) -> None:
    rows = [e for epoch in epochs_of(order, 3 * len(order.data)) for window in epoch for e in examples_of(window)]
    batch = rows[step * order.batch_size : (step + 1) * order.batch_size]
    assume(len(batch) == order.batch_size)
    assert order.shards_of(step) == sorted({e[:2] for e in batch if e})


@given(order=orders())
def test_a_window_has_one_shard_or_fits(order: Order) -> None:
    for window in (window for epoch in epochs_of(order, len(order.data)) for window in epoch):
        size = order.data[window.data].bytes[list(window.shards)].sum()
        assert order.window_bytes is None or size <= order.window_bytes or len(window.shards) == 1


@given(size=st.lists(st.integers(1, 50), min_size=1), limit=st.none() | st.integers(1, 150))
def test_groups_are_as_large_as_the_limit_allows(size: list[int], limit: int | None) -> None:
    groups = [group.tolist() for group in group_shards(np.arange(len(size)), np.array(size), limit)]
    assert [shard for group in groups for shard in group] == list(range(len(size)))
    for group, after in pairwise(groups):
        assert limit is not None
        assert sum(size[shard] for shard in [*group, after[0]]) > limit


def test_epochs_windows_and_seeds_are_shuffled_apart() -> None:
    data = Sizes(np.array([40, 40, 40, 40]), np.array([1, 1, 1, 1]))
    of_seed = {
        seed: [[w.rows.tolist() for w in epoch] for epoch in epochs_of(Order([data], 8, seed, window_bytes=2), 3)]
        for seed in range(3)
    }
    shuffles = [str(rows) for epochs in of_seed.values() for epoch in epochs for rows in epoch]
    assert len(shuffles) == len(set(shuffles)) == 3 * 3 * 2
    pairs = {tuple(sorted(w.shards)) for e in epochs_of(Order([data], 8, 0, window_bytes=2), 20) for w in e}
    assert len(pairs) > 2


def test_the_order_is_the_same_with_every_version() -> None:
    data = Sizes(np.array([3, 2]), np.array([1, 1]), (np.array([1, 5, 2]), np.array([7, 3])))
    flat = next(Order([data], 2, seed=7).windows(0))
    bucketed = next(Order([data], 2, seed=7, bucket_width=WIDTH).windows(0))
    assert (flat.shards, flat.rows.tolist()) == GOLDEN
    assert bucketed.widths is not None
    assert (bucketed.shards, bucketed.rows.tolist(), bucketed.widths.tolist()) == GOLDEN_BUCKETS


@given(
    sizes=sizes(),
    batch_size=st.integers(1, 9),
    window_bytes=st.none() | st.integers(1, 150),
    limit=st.none() | st.integers(1, 80),
)
def test_an_evaluation_reads_the_first_examples_once_and_in_order(
    sizes: Sizes, batch_size: int, window_bytes: int | None, limit: int | None
) -> None:
    windows = list(in_order(sizes, batch_size=batch_size, window_bytes=window_bytes, limit=limit))
    found = [e for window in windows for e in examples_of(window)]
    expected = sorted(e for e in all_of(sizes, 0) if e)[:limit]
    assert found == expected + [None] * (-len(expected) % batch_size)
    assert [window.first for window in windows] == [0, *(window.stop for window in windows[:-1])]
    assert windows[-1].shards[-1] == expected[-1][1]
