"""The relaxation for many lengths: neighbours merged, and split again where it matters.

A sequence may take a slot of any greater length. So a histogram whose lengths are rounded up to some marks is harder
than the original: its packs serve the original, and its linear program has one row per mark. Its duals, interpolated
between the marks, are prices for all lengths and prove a bound for the original. What lies between that bound and the
optimum of the merged program comes from groups of lengths over which the price rises, and those are split. Prices are
mostly flat where K binds, so that a few hundred marks give the very bound of all 8,192 lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from packing.solvers.bounds import Bound
from packing.solvers.column_generation import Relaxation, Relaxed, by_length, meets, priced_bound
from packing.solvers.effort import Effort
from packing.solvers.knapsack import Ints
from packing.solvers.master import Floats
from packing.types import Histogram

_FEW_LENGTHS = 600
_FIRST_GROUPS = 128
_PARTS = 4
_MOST_MARKS = 0.6  # of the lengths that occur: beyond, merging the others saves nothing


@dataclass(frozen=True, eq=False)
class Marks:
    """Lengths, ascending, the last one L; every length is rounded up to the next mark."""

    lengths: Ints

    @classmethod
    def of(cls, histogram: Histogram) -> Marks:
        """All lengths that occur if they are few, else equal steps."""
        capacity = histogram.max_sequence_length
        if np.count_nonzero(histogram.counts) <= _FEW_LENGTHS:
            return cls.all_of(histogram)
        return cls(np.arange(1, _FIRST_GROUPS + 1) * capacity // _FIRST_GROUPS)

    @classmethod
    def all_of(cls, histogram: Histogram) -> Marks:
        """All lengths that occur: nothing is merged."""
        return cls(np.union1d(np.flatnonzero(by_length(histogram)), [histogram.max_sequence_length]))

    def group_of(self, lengths: Ints) -> Ints:
        """The index of the mark that each length is rounded up to."""
        return np.searchsorted(self.lengths, lengths)

    def merge(self, histogram: Histogram) -> Histogram:
        """The histogram of the rounded lengths."""
        groups = self.group_of(np.arange(1, histogram.max_sequence_length + 1))
        counts = [0] * histogram.max_sequence_length
        for mark, count in zip(self.lengths[groups].tolist(), histogram.counts, strict=True):
            counts[mark - 1] += count
        return Histogram(tuple(counts))

    def split(self, groups: Ints) -> Marks:
        """Further marks inside `groups`, as far as there are lengths between."""
        lows = np.concatenate(([0], self.lengths))[groups]
        sizes = self.lengths[groups] - lows
        inner = lows + sizes * np.arange(1, _PARTS)[:, None] // _PARTS
        return Marks(np.union1d(self.lengths, inner[inner > lows]))


@dataclass(frozen=True, eq=False)
class Merged:
    """A relaxation of the merged histogram, its solution, and the bound proven for the histogram itself."""

    marks: Marks
    relaxation: Relaxation
    relaxed: Relaxed
    bound: Bound


def relax(histogram: Histogram, max_sequences_per_pack: int, known: Bound, effort: Effort) -> Merged | None:
    """Split groups until the bound is the optimum of the merged relaxation, rounded up, or until `effort` is spent.

    The bound is at least the one `known`. None if `effort` was spent before there was any solution.
    """
    marks = Marks.of(histogram)
    packs: list[tuple[int, ...]] = []
    result: Merged | None = None
    while True:
        merged = marks.merge(histogram)
        relaxation = Relaxation(merged, max_sequences_per_pack, packs)
        relaxed = relaxation.solve(merged, effort, known.packs)
        if relaxed is None:
            return result
        prices = _interpolated(relaxed.solution.duals, merged)
        bound = relaxed.bound if merged == histogram else priced_bound(histogram, prices, max_sequences_per_pack)
        known = max(known, bound, key=lambda candidate: candidate.packs)
        result = Merged(marks, relaxation, relaxed, known)
        groups = _worth_splitting(marks, histogram, relaxed.solution.duals, prices)
        if not relaxed.optimal or not len(groups) or meets(known.packs, relaxed.solution):
            return result
        marks = marks.split(groups)
        if len(marks.lengths) > _MOST_MARKS * np.count_nonzero(histogram.counts):
            marks = Marks.all_of(histogram)
        packs = [relaxation.packs[column] for column in np.flatnonzero(relaxed.solution.uses > 0)]


def _interpolated(duals: Floats, merged: Histogram) -> Floats:
    """Prices float64[L + 1] for all lengths: those of the marks that occur, straight lines between them, 0 at 0."""
    known = np.concatenate(([0], np.flatnonzero(by_length(merged))))
    return np.interp(np.arange(len(duals)), known, duals[known])


def _worth_splitting(marks: Marks, histogram: Histogram, duals: Floats, prices: Floats) -> Ints:
    """The groups of which the sequences are priced lower than the mark that they are rounded up to."""
    lengths = np.arange(1, len(prices))
    groups = marks.group_of(lengths)
    lost = by_length(histogram)[1:] * (duals[marks.lengths[groups]] - prices[1:])
    losses = np.bincount(groups, weights=lost, minlength=len(marks.lengths))
    sizes = np.diff(marks.lengths, prepend=0)
    return np.flatnonzero((losses > 1e-9 * losses.sum()) & (sizes > 1))
