from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.example import RawSequence, read_sequence
from packing.sequences import ROW_TYPES, SequenceBuffer, Sequences, decode_varints, encode_varints
from packing.tfrecord import read_records
from tests.builders import random_sizes, raw_shard


def window_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)


def taken(data: bytes, buffer: SequenceBuffer | None = None) -> Sequences:
    buffer = SequenceBuffer() if buffer is None else buffer
    assert buffer.take(window_of(data), 0, len(data), 0) == len(data)
    return buffer.sequences()


def same_sequence(one: RawSequence, other: RawSequence) -> bool:
    names = ("tokens", "segments", "masked_positions", "masked_ids")
    return one.label == other.label and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def same_rows(one: Sequences, other: Sequences) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("content", *ROW_TYPES))


@given(st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 300)))
def test_varints_come_back(values: list[int]) -> None:
    encoded = encode_varints(np.array(values, dtype=np.int64))
    assert len(encoded) == sum(max(1, -(-value.bit_length() // 7)) for value in values)
    assert decode_varints(np.frombuffer(encoded, np.uint8)).tolist() == values


@pytest.mark.parametrize("count", [1, 5, 300])
def test_both_ways_of_appending_give_the_same_rows_and_content(count: int) -> None:
    data = raw_shard(random_sizes(count, seed=count))
    fast = taken(data)
    slow = SequenceBuffer()
    for offset, payload in read_records(data, "shard"):
        slow.append(read_sequence(payload), offset)
    assert len(fast) == count
    assert same_rows(fast, slow.sequences())
    for row, (_, payload) in enumerate(read_records(data, "shard")):
        assert same_sequence(fast.sequence(row), read_sequence(payload))


def test_a_small_buffer_grows_and_a_cleared_one_is_used_again() -> None:
    data = raw_shard(random_sizes(50, seed=1))
    buffer = SequenceBuffer(rows=0, content_bytes=0)
    once = taken(data, buffer)
    assert same_rows(once, taken(data))
    content = once.content.copy()
    buffer.clear()
    assert len(buffer) == buffer.content_bytes == 0
    again = taken(data, buffer)
    assert np.array_equal(again.content, content)
    assert np.shares_memory(once.content, again.content)


def test_a_buffer_of_the_right_size_does_not_grow() -> None:
    data = raw_shard(random_sizes(50, seed=1))
    known = taken(data)
    exact = taken(data, SequenceBuffer(len(known), len(known.content)))
    assert same_rows(exact, known)
    assert exact.content.base is not None
    assert exact.content.base.nbytes == len(known.content)


def test_extended_sequences_keep_their_content() -> None:
    first, second = (raw_shard(random_sizes(20, seed=seed), seed=seed) for seed in (1, 2))
    buffer = SequenceBuffer(rows=1, content_bytes=1)
    for data in (first, second):
        buffer.extend(taken(data))
    both = buffer.sequences()
    assert len(both) == len(buffer) == 40
    assert buffer.content_bytes == len(both.content)
    payloads = [payload for data in (first, second) for _, payload in read_records(data, "shard")]
    assert all(same_sequence(both.sequence(row), read_sequence(payload)) for row, payload in enumerate(payloads))
    assert both.offsets.tolist() == [offset for data in (first, second) for offset, _ in read_records(data, "shard")]


def test_offsets_count_from_the_origin_of_the_window() -> None:
    data = raw_shard([(5, 1), (7, 1)])
    buffer = SequenceBuffer()
    assert buffer.take(window_of(b"?" * 9 + data + b"?" * 9), 9, 9 + len(data), 1000) == 9 + len(data)
    assert buffer.sequences().offsets.tolist() == [1009 + offset for offset, _ in read_records(data, "shard")]


def test_positions_beyond_any_slot_are_cut_to_16_bits() -> None:
    length = 70_000
    sequence = RawSequence(np.ones(length, int), np.zeros(length, int), np.array([65_537]), np.array([7]), 0)
    buffer = SequenceBuffer()
    buffer.append(sequence, 0)
    assert buffer.sequences().lengths.tolist() == [length]
    assert buffer.sequences().sequence(0).masked_positions.tolist() == [1]


@pytest.mark.parametrize(
    ("window", "begin", "end"),
    [
        (np.zeros(10, np.int8), 0, 10),
        (np.zeros(20, np.uint8)[::2], 0, 10),
        (np.zeros((2, 10), np.uint8), 0, 2),
        (np.zeros(10, np.uint8), -1, 10),
        (np.zeros(10, np.uint8), 0, 11),
        (np.zeros(10, np.uint8), 5, 4),
    ],
)
def test_positions_outside_the_window_are_refused(window: np.ndarray, begin: int, end: int) -> None:
    with pytest.raises(ValueError, match=r"^window: expected .*, got "):
        SequenceBuffer().take(window, begin, end, 0)


def test_a_sequence_of_more_than_65536_tokens_is_taken_as_it_is_appended() -> None:
    data = raw_shard([(70_000, 100)], slots=70_000, predictions=100)
    [(offset, payload)] = read_records(data, "shard")
    slow = SequenceBuffer()
    slow.append(read_sequence(payload), offset)
    assert same_rows(taken(data), slow.sequences())
