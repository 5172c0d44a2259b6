"""A sample of raw shards: all of them if they are small, else the first records of some, in a bounded number of bytes.

A sampled shard stands in an overlay under its own URI, so that every later stage takes it for a raw shard.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packing.errors import ContentError, InputError
from packing.overlay import Overlay
from packing.tfrecord import HEADER_BYTES, compression_of, frame_size, inflate
from packing.types import RawShard

SPREAD = 32
"""Shards among which the bytes of a sample are divided, so that one odd shard does not stand for all."""

_MOST_CONTENT = 64 * 1024 * 1024
_STEP, _PIECE = 64 * 1024, 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """`shards` as they stand in the overlay, sorted by name, which hold `bytes` of the stored ones.

    Of those named in `cut` only the first records are there; `whole` if nothing at all was left out. `bytes_read`
    counts what was asked of the store, in `seconds`.
    """

    shards: tuple[RawShard, ...]
    cut: frozenset[str]
    bytes: int
    whole: bool
    bytes_read: int
    seconds: float


def take_sample(store: Overlay, shards: Sequence[RawShard], limit: int, seed: int) -> Sample:
    """Read at most `limit` bytes of `shards`, in an order that `seed` decides; those without any cost nothing.

    Raises InputError if not one whole record fits, ObjectChangedError if a shard is no longer the listed version.
    """
    size = sum(shard.size for shard in shards)
    filled = sum(1 for shard in shards if shard.size)
    share = limit if size <= limit else max(1, limit // min(SPREAD, filled))
    taken: list[RawShard] = []
    cut: set[str] = set()
    used = read = 0
    started = time.monotonic()
    for shard in sorted(shards, key=lambda shard: (shard.size > 0, _rank(shard, seed))):
        asked = min(shard.size, share)
        if asked > limit - read:
            break
        data = store.read(shard.uri, size=asked, etag=shard.etag) if asked else b""
        read += asked
        content, stored = (data, asked) if asked == shard.size else _whole_records(data, shard)
        used += stored
        if asked < shard.size:
            cut.add(shard.name)
        info = store.write(shard.uri, content)
        taken.append(RawShard(shard.name, shard.uri, info.size, info.etag))
    seconds = time.monotonic() - started
    if size and not used:
        raise InputError(f"{shards[0].uri}: expected a whole record in its first {share} bytes, found none")
    taken.sort(key=lambda shard: shard.name)
    return Sample(tuple(taken), frozenset(cut), used, read == size, read, seconds)


def _rank(shard: RawShard, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{shard.name}".encode("utf-8", "surrogateescape")).digest()


def _whole_records(data: bytes, shard: RawShard) -> tuple[bytes, int]:
    """The uncompressed records that the first bytes of a shard hold whole, and what is damaged behind them.

    Also how many of the stored bytes that is; in a plain shard, those behind the last whole record were read in vain.
    """
    if len(data) < HEADER_BYTES:
        return b"", 0  # too few to tell compressed records from plain ones
    plain = compression_of(data[:HEADER_BYTES]) is None
    content, stored, end = data, len(data), 0
    try:
        content, stored = _content(data, shard)
        while end + HEADER_BYTES <= len(content):
            size = frame_size(content[end : end + HEADER_BYTES])
            if end + size > len(content):
                break
            end += size
    except ContentError:
        return content, stored  # the scan says what is wrong, and where
    return content[:end], end if plain else stored


def _content(data: bytes, shard: RawShard) -> tuple[bytes, int]:
    """At most about _MOST_CONTENT bytes of content, and of how many stored bytes they are."""
    window = compression_of(data[:HEADER_BYTES])
    if window is None:
        return data, len(data)
    content = bytearray()
    taken = 0

    def steps() -> Iterator[bytes]:
        nonlocal taken
        while taken < len(data) and len(content) < _MOST_CONTENT:
            step = data[taken : taken + _STEP]
            taken += len(step)
            yield step

    for piece in inflate(steps(), window, shard.size, _PIECE, cut=True):
        content += piece
    return bytes(content), taken
