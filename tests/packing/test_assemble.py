"""The fast path's packs are, byte for byte, those of the protobuf path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.assemble import assemble_packs, pack_sizes
from packing.errors import VerificationError
from packing.example import RawSequence, assemble_pack, encode_example, read_sequence
from packing.sequences import SequenceBuffer, Sequences
from packing.tfrecord import encode_record
from packing.types import Parameters
from tests.builders import raw_example


def parameters(length: int, sequences: int, predictions: int) -> Parameters:
    return Parameters(
        max_sequence_length=length, max_sequences_per_pack=sequences, max_predictions_per_sequence=predictions
    )


def sequence(length: int, masked: int, seed: int, largest_id: int = 30_000) -> RawSequence:
    random = np.random.default_rng((length, masked, seed))
    return RawSequence(
        tokens=random.integers(0, largest_id, size=length),
        segments=random.integers(0, 2, size=length),
        masked_positions=random.integers(0, length, size=masked),
        masked_ids=random.integers(0, largest_id, size=masked),
        label=int(random.integers(0, 2)),
    )


def compact(sequences: Sequence[RawSequence]) -> Sequences:
    buffer = SequenceBuffer()
    for number, raw in enumerate(sequences):
        buffer.append(raw, number)
    return buffer.sequences()


def records(sequences: Sequence[RawSequence], packs: Sequence[Sequence[int]], limits: Parameters) -> list[bytes]:
    """What the protobuf path makes of the packs."""
    shape = {
        "max_sequence_length": limits.max_sequence_length,
        "max_sequences_per_pack": limits.max_sequences_per_pack,
        "max_predictions_per_sequence": limits.max_predictions_per_sequence,
    }
    members = [[sequences[i] for i in pack if i >= 0] for pack in packs]
    return [encode_record(encode_example(assemble_pack(pack, **shape))) for pack in members]


def check_equal(sequences: Sequence[RawSequence], packs: Sequence[Sequence[int]], limits: Parameters) -> None:
    rows, indices = compact(sequences), np.array(packs, dtype=np.int32)
    expected = records(sequences, packs, limits)
    assert pack_sizes(rows, indices, limits).tolist() == [len(record) for record in expected]
    assert assemble_packs(rows, indices, limits).tobytes() == b"".join(expected)


@given(st.data())
def test_packs_equal_those_of_protobuf(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 40)), min_size=1, max_size=12))
    largest = data.draw(st.sampled_from([100, 30_000, 2**63 - 1]))
    sequences = [sequence(length, masked, seed, largest) for seed, (length, masked) in enumerate(sizes)]
    width = data.draw(st.integers(1, 4))
    order = data.draw(st.permutations(range(len(sizes))))
    packs = [order[i : i + width] for i in range(0, len(order), width)]
    limits = parameters(
        max(sum(sizes[i][0] for i in pack) for pack in packs) + data.draw(st.integers(0, 200)),
        width + data.draw(st.integers(0, 3)),
        max(1, *(sum(sizes[i][1] for i in pack) for pack in packs)) + data.draw(st.integers(0, 20)),
    )
    padded = [data.draw(st.permutations([*pack, *[-1] * (width - len(pack))])) for pack in packs]
    check_equal(sequences, padded, limits)


@pytest.mark.parametrize(
    ("length", "count", "slots"),
    [(1, 300, 300), (2, 127, 512), (2, 128, 512), (1, 16_390, 16_400), (150, 3, 65_536), (65_536, 1, 65_536)],
)
def test_extreme_slots_and_numbers_of_sequences(length: int, count: int, slots: int) -> None:
    """Numbers, offsets and positions at which a varint takes one byte more."""
    sequences = [sequence(length, min(length, 3), seed) for seed in range(min(count, 10))]
    pack = [i % len(sequences) for i in range(count)]
    check_equal(sequences, [pack], parameters(slots, count, 3 * count))


def test_what_is_taken_from_records_is_packed() -> None:
    payloads = [raw_example(length, 5, seed=length) for length in (20, 30, 60)]
    data = b"".join(encode_record(payload) for payload in payloads)
    buffer = SequenceBuffer()
    assert buffer.take(np.frombuffer(data, np.uint8), 0, len(data), 0) == len(data)
    limits, packs = parameters(64, 2, 10), [[2, -1], [1, 0]]
    found = assemble_packs(buffer.sequences(), np.array(packs, np.int32), limits)
    assert found.tobytes() == b"".join(records([read_sequence(payload) for payload in payloads], packs, limits))


THREE = [sequence(length, 2, length) for length in (10, 20, 30)]
LIMITS = parameters(50, 2, 2)


@pytest.mark.parametrize(
    ("packs", "expected"),
    [
        ([[0, 1], [-1, -1]], r"pack 1 of 2: expected at least one sequence, found \[-1, -1\]"),
        ([[2, 1], [2, 2]], "pack 1 of 2: expected at most 50 tokens"),
        ([[0, 0, 0]], "pack 0 of 1: expected at most 2 sequences"),
        ([[0, 3]], "pack 0 of 1: expected indices of 3 sequences"),
        ([[0, -2]], "pack 0 of 1: expected indices of 3 sequences"),
    ],
)
def test_a_pack_that_cannot_be_is_refused(packs: list[list[int]], expected: str) -> None:
    with pytest.raises(VerificationError, match=expected):
        pack_sizes(compact(THREE), np.array(packs, np.int32), LIMITS)
    with pytest.raises(VerificationError, match=expected):
        assemble_packs(compact(THREE), np.array(packs, np.int32), LIMITS, np.empty(10_000, np.uint8))


def test_a_pack_with_too_many_masked_tokens_is_refused() -> None:
    sequences = [sequence(10, 3, 0), sequence(10, 2, 1)]
    with pytest.raises(VerificationError, match="pack 0 of 1: expected at most 4 masked tokens"):
        pack_sizes(compact(sequences), np.array([[0, 1]], np.int32), LIMITS)


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("starts", -1),
        ("starts", 10_000),
        ("starts", 2**63 - 1),
        ("lengths", 0),
        ("lengths", -5),
        ("token_bytes", 2**31 - 1),
        ("masked", -1),
        ("masked_id_bytes", 1),
        ("labels", 2),
    ],
)
def test_rows_that_speak_of_content_that_is_not_there_are_refused(row: str, value: int) -> None:
    rows = compact(THREE)
    wrong = getattr(rows, row).copy()
    wrong[1] = value
    with pytest.raises(VerificationError, match="lie within"):
        pack_sizes(replace(rows, **{row: wrong}), np.array([[1, -1]], np.int32), LIMITS)


def test_packs_are_written_to_the_array_that_is_given() -> None:
    rows, packs = compact(THREE), np.array([[0, 1], [2, -1]], np.int32)
    size = int(pack_sizes(rows, packs, LIMITS).sum())
    out = np.full(size + 8, 0xAA, np.uint8)
    found = assemble_packs(rows, packs, LIMITS, out)
    assert np.shares_memory(found, out)
    assert found.tobytes() == assemble_packs(rows, packs, LIMITS).tobytes()
    assert (out[size:] == 0xAA).all()
    guarded = np.full(size, 0xAA, np.uint8)
    with pytest.raises(ValueError, match="expected room for 2 packs"):
        assemble_packs(rows, packs, LIMITS, guarded[: size - 1])
    assert guarded[-1] == 0xAA


def test_no_packs_are_no_bytes() -> None:
    assert len(assemble_packs(compact(THREE), np.empty((0, 2), np.int32), LIMITS)) == 0
