"""Packs under construction, grouped by the space left: what the two histogram heuristics work on."""

from __future__ import annotations

from packing.types import Strategy


class OpenPacks:
    """Groups of equal packs; a pack that is full or holds K sequences is closed. The newest group is served first."""

    def __init__(self, capacity: int, max_sequences_per_pack: int) -> None:
        self._capacity = capacity
        self._max_sequences = max_sequences_per_pack
        self._open: list[list[Strategy]] = [[] for _ in range(capacity + 1)]
        self._spaces = 0  # bit s is set if there is an open pack with s tokens left
        self._closed: list[Strategy] = []

    def most_space(self, length: int) -> int:
        """The largest space left in an open pack if it is at least `length`; 0 if there is none."""
        space = self._spaces.bit_length() - 1
        return space if space >= length else 0

    def least_space(self, length: int) -> int:
        """The smallest space of at least `length` in an open pack; 0 if there is none."""
        enough = self._spaces >> length
        return length + (enough & -enough).bit_length() - 1 if enough else 0

    def place(self, space: int, length: int, count: int, *, most_repeats: int) -> int:
        """Put sequences of `length` into packs of the newest group with `space`, or into new packs if `space` is 0.

        Each pack takes as many as fit, up to `most_repeats` and `count`. Returns how many of `count` were placed.
        """
        group = self._take(space) if space else Strategy((), count)
        room = (self._capacity - sum(group.lengths)) // length
        repeats = min(most_repeats, count, room, self._max_sequences - len(group.lengths))
        packs = min(group.count, count // repeats)
        if space and packs < group.count:
            self._file(Strategy(group.lengths, group.count - packs))
        self._file(Strategy(group.lengths + (length,) * repeats, packs))
        return packs * repeats

    def strategies(self) -> list[Strategy]:
        """All packs, closed or not."""
        return self._closed + [group for groups in self._open for group in groups]

    def _take(self, space: int) -> Strategy:
        group = self._open[space].pop()
        if not self._open[space]:
            self._spaces ^= 1 << space
        return group

    def _file(self, group: Strategy) -> None:
        space = self._capacity - sum(group.lengths)
        if space == 0 or len(group.lengths) == self._max_sequences:
            self._closed.append(group)
        else:
            self._open[space].append(group)
            self._spaces |= 1 << space
