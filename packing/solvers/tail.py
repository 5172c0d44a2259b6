"""Packing the last sequences into a given number of packs, by bin completion (Korf, 2002; here with exact sums first).

The longest sequence left starts a pack; the others that join it are enumerated, fullest packs first, and taken back
where what is left cannot fit the packs that are left. Few tokens and few places may stay unused in all packs
together, which prunes. With many sequences left there are many exact fills, so backtracking is rare until the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from packing.types import Histogram, Strategy

Pack = tuple[int, ...]


class _Left:
    """The sequences left, by length; bit l of `present` says whether there is one, and bit L - l of `mirrored`.

    `steps` bounds the work: every sequence that is tried costs one, and nothing more is found when none is left.
    """

    def __init__(self, histogram: Histogram, steps: int) -> None:
        self.capacity = histogram.max_sequence_length
        self.counts = [0, *histogram.counts]
        self.sequences = histogram.sequences
        self.tokens = histogram.tokens
        self.present = sum(1 << length for length, count in enumerate(self.counts) if count)
        self.mirrored = sum(1 << (self.capacity - length) for length, count in enumerate(self.counts) if count)
        self.steps = steps

    def take(self, length: int) -> None:
        self.steps -= 1
        self.counts[length] -= 1
        self.sequences -= 1
        self.tokens -= length
        if not self.counts[length]:
            self._flip(length)

    def put_back(self, length: int) -> None:
        if not self.counts[length]:
            self._flip(length)
        self.counts[length] += 1
        self.sequences += 1
        self.tokens += length

    def choices(self, tokens: int, sequences: int, longest: int) -> Iterator[Pack]:
        """Every choice of exactly `sequences` sequences of at most `longest` tokens each, `tokens` in sum.

        Longest first. Between two choices the caller may take sequences that it puts back before the next.
        """
        if sequences == 0:
            yield from [()] * (tokens == 0)
        elif sequences == 1:
            yield from [(tokens,)] * (0 < tokens <= longest and self.counts[tokens] > 0)
        elif sequences == 2:
            yield from self._pairs(tokens, longest)
        elif self.present:
            shortest = (self.present & -self.present).bit_length() - 1
            most = min(longest, tokens - (sequences - 1) * shortest)
            for length in _descending(self.present, -(-tokens // sequences), most):
                if self.steps <= 0:
                    return
                self.take(length)
                for others in self.choices(tokens - length, sequences - 1, length):
                    self.put_back(length)
                    yield (length, *others)
                    self.take(length)
                self.put_back(length)

    def _pairs(self, tokens: int, longest: int) -> Iterator[Pack]:
        shift = self.capacity - tokens
        partners = self.mirrored >> shift if shift >= 0 else self.mirrored << -shift
        for length in _descending(self.present & partners, -(-tokens // 2), min(longest, tokens)):
            if 2 * length != tokens or self.counts[length] > 1:
                yield (length, tokens - length)

    def _flip(self, length: int) -> None:
        self.present ^= 1 << length
        self.mirrored ^= 1 << (self.capacity - length)


def _descending(bits: int, low: int, high: int) -> Iterator[int]:
    """The positions of the bits set from `high` down to `low`."""
    bits = (bits & ((1 << (high + 1)) - 1)) >> low << low if high >= low else 0
    while bits:
        position = bits.bit_length() - 1
        yield position
        bits ^= 1 << position


def pack_tail(histogram: Histogram, max_sequences_per_pack: int, packs: int, steps: int) -> list[Strategy] | None:
    """Pack everything into at most `packs` packs, or None if that was not found by trying `steps` sequences."""
    left = _Left(histogram, steps)
    chosen: list[Pack] = []
    untried = [_packs_with_the_longest(left, max_sequences_per_pack, packs)]
    while untried:
        pack = next(untried[-1], None)
        if pack is None:
            untried.pop()
            for length in chosen.pop() if chosen else ():
                left.put_back(length)
            continue
        for length in pack:
            left.take(length)
        chosen.append(pack)
        if not left.sequences:
            return [Strategy(pack, 1) for pack in chosen]
        untried.append(_packs_with_the_longest(left, max_sequences_per_pack, packs - len(chosen)))
    return None


def _packs_with_the_longest(left: _Left, max_sequences: int, packs: int) -> Iterator[Pack]:
    """Packs that hold the longest sequence left and leave what fits `packs` - 1 packs by tokens and places.

    The fullest first; equally full ones by how near they are to the number of sequences that packs need on average.
    """
    unused = packs * left.capacity - left.tokens
    fewest = max(1, left.sequences - (packs - 1) * max_sequences)
    if packs < 1 or unused < 0 or fewest > max_sequences:
        return
    average = left.sequences / packs
    sizes = sorted(range(fewest, max_sequences + 1), key=lambda size: (abs(size - average), size))
    longest = left.present.bit_length() - 1
    space = left.capacity - longest
    for tokens in range(space, max(space - unused, 0) - 1, -1):
        for size in sizes:
            left.take(longest)
            for others in left.choices(tokens, size - 1, longest):
                left.put_back(longest)
                if left.steps <= 0:
                    return
                yield (longest, *others)
                left.take(longest)
            left.put_back(longest)
            if left.steps <= 0:
                return
