"""Which examples a step reads, from counts and a seed alone: pure functions, without a clock or state.

Epoch e permutes the shards, groups them in that order into *windows* of at most `window_bytes` (a share of the local
cache; without a limit, all shards) and permutes all examples within each window. The examples of all windows of all
epochs, one after the other, are the *rows* of a run; step s reads the rows from s x B to (s + 1) x B. So an epoch holds
each example once, every step is full, and a run continues at any step at once.

With buckets, sequences of similar length share a step (dynamic batching by length): the rows of a window are then its
sequences by bucket, in the permuted order within each and filled up with empty rows to whole steps, and it is these
steps that are permuted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from packing.shuffle import permutation

Array = npt.NDArray[Any]

EMPTY = -1


@dataclass(frozen=True, eq=False)
class Sizes:
    """The S shards of one dataset, as it lists them: `counts` int64[S] of their examples and `bytes` int64[S].

    `lengths` holds the lengths of each shard's sequences, int32[counts[i]]; only buckets need them.
    """

    counts: Array
    bytes: Array
    lengths: tuple[Array, ...] = ()


@dataclass(frozen=True, eq=False)
class Window:
    """A run of rows, and the shards that are on local disk together while it is read.

    `data` numbers the dataset, `shards` are numbers within it. `rows` int32[n, 2] has an entry of `shards` and a record
    of that shard, or EMPTY twice; the first one is row number `first`. With buckets, `first` and n are multiples of B,
    and `widths` int32[n / B] is the length up to which each step's bucket goes.
    """

    data: int
    shards: tuple[int, ...]
    first: int
    rows: Array
    widths: Array | None = None

    @property
    def stop(self) -> int:
        return self.first + len(self.rows)


@dataclass(frozen=True, eq=False)
class Order:
    """The endless order of a training run; epoch e reads `data[e mod len(data)]`, none of which is empty.

    `batch_size` is B, of all replicas together. `bucket_width` makes buckets of lengths up to its multiples.
    """

    data: Sequence[Sizes]
    batch_size: int
    seed: int
    window_bytes: int | None = None
    bucket_width: int | None = None

    def windows(self, start: int) -> Iterator[Window]:
        """From the window that holds the first row of step `start` on, without end."""
        position, first = start * self.batch_size, 0
        for epoch in itertools.count():
            number = epoch % len(self.data)
            total = int(self.data[number].counts.sum())
            if self.bucket_width is None and first + total <= position:
                first += total
                continue
            shuffled = permutation(len(self.data[number].counts), self.seed, "shards", epoch)
            for place, shards in enumerate(group_shards(shuffled, self.data[number].bytes, self.window_bytes)):
                count = self._count_rows(number, shards)
                if count and first + count > position:
                    rows, widths = self._rows(number, shards, (self.seed, epoch, place))
                    yield Window(number, tuple(shards.tolist()), first, rows, widths)
                first += count

    def shards_of(self, step: int) -> list[tuple[int, int]]:
        """The dataset and the number of each shard that a step reads."""
        found: set[tuple[int, int]] = set()
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        for window in self.windows(step):
            entries = window.rows[max(start - window.first, 0) : stop - window.first, 0]
            found.update((window.data, window.shards[entry]) for entry in np.unique(entries) if entry != EMPTY)
            if window.stop >= stop:
                break
        return sorted(found)

    def _count_rows(self, number: int, shards: Array) -> int:
        if self.bucket_width is None:
            return int(self.data[number].counts[shards].sum())
        steps = -(-self._bucket_counts[number][shards].sum(axis=0) // self.batch_size)
        return int(steps.sum()) * self.batch_size

    @cached_property
    def _bucket_counts(self) -> list[Array]:
        """Sequences by shard and bucket, int64[S, buckets] of each dataset."""
        by_data = [[self._buckets(lengths) for lengths in sizes.lengths] for sizes in self.data]
        most = 1 + max(int(buckets.max(initial=0)) for shards in by_data for buckets in shards)
        return [np.stack([np.bincount(buckets, minlength=most) for buckets in shards]) for shards in by_data]

    def _buckets(self, lengths: Array) -> Array:
        return (lengths - 1) // self.bucket_width

    def _rows(self, number: int, shards: Array, stream: tuple[int, ...]) -> tuple[Array, Array | None]:
        sizes = self.data[number]
        rows = rows_of(sizes.counts[shards])
        shuffled = permutation(len(rows), "examples", *stream)
        if self.bucket_width is None:
            return rows[shuffled], None
        buckets = self._buckets(np.concatenate([sizes.lengths[shard] for shard in shards]))
        steps, bucket = _by_bucket(rows[shuffled], buckets[shuffled], self.batch_size)
        mixed = permutation(len(steps), "steps", *stream)
        return steps[mixed].reshape(-1, 2), (bucket[mixed] + 1) * self.bucket_width


def in_order(
    sizes: Sizes, *, batch_size: int, window_bytes: int | None = None, limit: int | None = None
) -> Iterator[Window]:
    """The first `limit` examples (all by default), once and in order, then empty rows to a multiple of `batch_size`."""
    total = int(sizes.counts.sum())
    wanted = total if limit is None else min(limit, total)
    needed = 1 + int(np.searchsorted(np.cumsum(sizes.counts), wanted))
    first = 0
    for shards in group_shards(np.arange(needed), sizes.bytes, window_bytes):
        rows = rows_of(sizes.counts[shards])[: wanted - first]
        if first + len(rows) == wanted:
            rows = fill_up(rows, -wanted % batch_size)
        yield Window(0, tuple(shards.tolist()), first, rows)
        first += len(rows)


def group_shards(order: Array, sizes: Array, limit: int | None) -> Iterator[Array]:
    """Cut `order` (shard numbers) into runs of at most `limit` bytes in all, or of one shard."""
    start = total = 0
    for place, size in enumerate(sizes[order].tolist()):
        if limit is not None and total + size > limit and place > start:
            yield order[start:place]
            start, total = place, 0
        total += size
    yield order[start:]


def rows_of(counts: Array) -> Array:
    """(entry, record) of every record of shards with these counts, in order: int32[sum, 2]."""
    entries = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    starts = np.cumsum(counts) - counts
    records = np.arange(len(entries)) - starts[entries]
    return np.stack([entries, records.astype(np.int32)], axis=1)


def _by_bucket(rows: Array, buckets: Array, batch_size: int) -> tuple[Array, Array]:
    """Whole steps of rows of one bucket each, int32[steps, B, 2], and their buckets, int64[steps]."""
    found = [(bucket, rows[buckets == bucket]) for bucket in np.unique(buckets)]
    steps = [fill_up(some, -len(some) % batch_size).reshape(-1, batch_size, 2) for _, some in found]
    return np.concatenate(steps), np.repeat([bucket for bucket, _ in found], [len(some) for some in steps])


def fill_up(rows: Array, missing: int) -> Array:
    """Add `missing` empty rows."""
    return np.concatenate([rows, np.full((missing, 2), EMPTY, rows.dtype)])
