"""The serialized examples of this process's replicas, read from the windows of an order, the next one fetched ahead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from threading import Event

from training.background import read_ahead
from training.order import EMPTY, Window
from training.records import Records

OpenShards = Callable[[Window, Event], Sequence[Records]]
"""Opens the shards of a window, unless the event is set meanwhile."""


@dataclass(frozen=True)
class Slices:
    """How a step is cut: `replicas` equal slices of `size` consecutive rows, of which `own` are read here.

    Which examples a step has does not depend on how many processes share it, so each of them reads from all shards.
    """

    size: int
    replicas: int
    own: Collection[int]


def read_batches(
    windows: Iterator[Window],
    open_shards: OpenShards,
    slices: Slices,
    *,
    start: int,
    closed: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[list[bytes], int]]:
    """The own slices of each step from step `start` on: their serialized examples, and their bucket's width or 0.

    A slice has `size` examples, less the empty rows in it. While a window is read, the next one's shards are fetched;
    where these are waited for, raises StoppedError once `closed` says that nobody wants them.
    """
    stopped = Event()
    step = slices.size * slices.replicas
    batch: list[bytes] = []
    try:
        opened = ((window, open_shards(window, stopped)) for window in windows)
        for window, shards in read_ahead(opened, closed):
            for first, stop in _cuts(max(window.first, start * step), window.stop, slices.size):
                if first // slices.size % slices.replicas in slices.own:
                    rows = window.rows[first - window.first : stop - window.first].tolist()
                    batch += [shards[entry][record] for entry, record in rows if entry != EMPTY]
                    if stop % slices.size == 0:
                        yield batch, 0 if window.widths is None else int(window.widths[(first - window.first) // step])
                        batch = []
            del window, shards  # which makes room for the window after the next
    finally:
        stopped.set()


def _cuts(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """The rows from `start` to `stop`, cut at the multiples of `size`."""
    while start < stop:
        end = min(stop, start - start % size + size)
        yield start, end
        start = end
