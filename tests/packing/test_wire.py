"""What the fast path takes, the protobuf path accepts and reads in the same way; what it cannot tell, it leaves."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from packing.errors import ExampleError
from packing.example import encode_example, read_sequence
from packing.sequences import SequenceBuffer, Sequences
from packing.tfrecord import FRAME_BYTES, encode_record
from tests.builders import random_sizes, raw_example, raw_features, raw_shard
from tests.packing.test_sequences import same_sequence

BUFFER = SequenceBuffer()


def take(data: bytes, *, before: bytes = b"", behind: bytes = b"") -> tuple[int, Sequences]:
    """How much of `data` is taken, standing between other bytes, and the sequences found."""
    BUFFER.clear()
    window = np.frombuffer(before + data + behind, dtype=np.uint8)
    return BUFFER.take(window, len(before), len(before) + len(data), 0) - len(before), BUFFER.sequences()


def is_taken(payload: bytes) -> bool:
    """Whether the fast path takes this payload, which it then reads as the protobuf path does."""
    record = encode_record(payload)
    position, sequences = take(record)
    if position == 0:
        assert len(sequences) == 0
        return False
    assert position == len(record)
    assert same_sequence(sequences.sequence(0), read_sequence(payload))
    return True


def varint(value: int, overlong: int = 0) -> bytes:
    """A varint, with `overlong` bytes more than needed."""
    rest, encoded = value % 2**64, bytearray()
    while rest >= 0x80 or overlong:
        overlong -= rest < 0x80
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes(encoded) + bytes([rest])


def field(number: int, content: bytes, overlong: int = 0) -> bytes:
    return varint(8 * number + 2) + varint(len(content), overlong) + content


def value_list(values: Sequence[Any], style: str = "plain") -> bytes:
    """The content of a Feature, encoded in one of the ways that protobuf reads."""
    number = 2 if isinstance(values[0], float) else 3
    encoded = [struct.pack("<f", value) if number == 2 else varint(value, style == "overlong") for value in values]
    if style == "unpacked":
        return field(number, b"".join(bytes([13 if number == 2 else 8]) + value for value in encoded))
    if style == "chunks":
        half = len(encoded) // 2
        return field(number, field(1, b"".join(encoded[:half])) + field(1, b"".join(encoded[half:])))
    if style == "two lists":
        half = len(encoded) // 2
        return field(number, field(1, b"".join(encoded[:half]))) + field(number, field(1, b"".join(encoded[half:])))
    if style == "long size":
        return field(number, field(1, b"".join(encoded), overlong=1))
    return field(number, field(1, b"".join(encoded)))


def entry(name: str, value: bytes, style: str = "plain") -> bytes:
    key, content = field(1, name.encode()), field(2, value)
    if style == "value first":
        return field(1, content + key)
    if style == "unknown field":
        return field(1, key + content + b"\x18\x01")
    if style == "two keys":
        return field(1, key + key + content)
    return field(1, key + content)


LIST_STYLES = ("unpacked", "chunks", "two lists", "overlong", "long size")
ENTRY_STYLES = ("value first", "unknown field", "two keys")


def example(
    features: Mapping[str, Sequence[Any]], *, order: Sequence[str] = (), extra: bytes = b"", **styles: str
) -> bytes:
    """A serialized example, its features in this order and encoded in these styles, plain ones by default."""
    entries = [
        entry(name, value_list(features[name], styles.get(name, "plain")), styles.get(name, "plain"))
        for name in order or features
    ]
    return field(1, b"".join(entries) + extra)


def lists_of(features: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    return {name: values.tolist() for name, values in features.items()}


GOOD = lists_of(raw_features(20, 3))


@st.composite
def valid_features(draw: st.DrawFn) -> dict[str, list[Any]]:
    """A valid example of any slot counts, with ids of any size and any single bytes as padding."""
    length, masked = draw(st.integers(1, 300)), draw(st.integers(0, 20))
    slots, predictions = length + draw(st.integers(0, 100)), masked + draw(st.integers(1, 10))
    ids = st.integers(0, 30_000) | st.integers(0, 2**63 - 1)
    tokens = draw(st.lists(ids, min_size=1, max_size=20))
    padding = draw(st.integers(0, 127))

    def pad(values: list[int], size: int) -> list[int]:
        return [*values, *[padding] * (size - len(values))]

    positions = draw(st.lists(st.integers(0, length - 1), min_size=masked, max_size=masked))
    return {
        "input_ids": pad((tokens * length)[:length], slots),
        "input_mask": [1] * length + [0] * (slots - length),
        "segment_ids": pad([i % 2 for i in range(length)], slots),
        "masked_lm_positions": pad(positions, predictions),
        "masked_lm_ids": pad(draw(st.lists(ids, min_size=masked, max_size=masked)), predictions),
        "masked_lm_weights": [1.0] * masked + [0.0] * (predictions - masked),
        "next_sentence_labels": [draw(st.integers(0, 1))],
    }


@pytest.mark.parametrize("seed", range(5))
def test_every_record_that_writers_make_is_taken(seed: int) -> None:
    data = raw_shard(random_sizes(200, seed=seed), seed=seed)
    position, sequences = take(data)
    assert (position, len(sequences)) == (len(data), 200)


@given(valid_features(), st.permutations(list(GOOD)))
def test_valid_features_in_any_order_are_taken(features: dict[str, list[Any]], order: list[str]) -> None:
    assert is_taken(example(features, order=order))


@given(valid_features(), st.data())
def test_both_paths_agree_on_altered_values_and_encodings(features: dict[str, list[Any]], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(features)))
    values = features[name]
    unusual = [0, 1, 2, 127, 128, 300, -1, 2**63 - 1]
    if name == "masked_lm_weights":
        unusual = [0.0, 1.0, -0.0, 0.5, 2.0, float("nan")]
    for _ in range(data.draw(st.integers(0, 2))):
        values[data.draw(st.integers(0, len(values) - 1))] = data.draw(st.sampled_from(unusual))
    if len(values) > 1 and data.draw(st.integers(0, 3)) == 0:
        values.pop()
    styled = data.draw(st.sampled_from(sorted(features)))
    style = data.draw(st.sampled_from(("plain", *LIST_STYLES, *ENTRY_STYLES)))
    taken = is_taken(example(features, order=data.draw(st.permutations(list(features))), **{styled: style}))
    event(f"taken: {taken}")


@given(st.integers(1, 40), st.integers(0, 10), st.data())
def test_both_paths_agree_on_damaged_payloads(length: int, masked: int, data: st.DataObject) -> None:
    payload = bytearray(raw_example(length, min(length, masked)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        change = data.draw(st.sampled_from(("flip", "set", "insert", "delete", "cut")))
        if change == "flip":
            payload[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "set":
            payload[at] = data.draw(st.integers(0, 255))
        elif change == "insert":
            payload[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del payload[at : at + 1 if change == "delete" else len(payload)]
        if not payload:
            break
    event(f"taken: {is_taken(bytes(payload))}")


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.parametrize("style", [*LIST_STYLES, *ENTRY_STYLES])
def test_an_unusual_encoding_is_left_to_the_protobuf_path(name: str, style: str) -> None:
    if name == "masked_lm_weights" and style == "overlong":
        style = "chunks"
    payload = example(GOOD, **{name: style})
    assert not is_taken(payload)
    if style != "unknown field":  # protobuf counts such an entry among the unknown fields
        assert same_sequence(read_sequence(payload), read_sequence(example(GOOD)))


@pytest.mark.parametrize(
    "extra",
    [
        entry("flags", value_list([1, 300, 2**63 - 1])),
        entry("scores", value_list([0.5, 2.0])),
        entry("names", field(1, field(1, b"one") + field(1, b"\xff\x00"))),
        entry("empty_bytes", field(1, b"")),
        entry("empty_floats", field(2, b"")),
        entry("empty_integers", field(3, b"")),
        entry("nothing", b""),
        entry("", b""),
        entry("x" * 300, value_list([1])),
        entry("input_idz", value_list([1])),
    ],
)
def test_plain_features_beyond_the_seven_are_taken(extra: bytes) -> None:
    assert is_taken(example(GOOD, extra=extra))


@pytest.mark.parametrize(
    "extra",
    [
        entry("flags", field(3, field(1, b"\x81"))),
        entry("flags", field(3, field(1, b"\x81\x00"))),
        entry("scores", field(2, field(1, b"abc"))),
        entry("names", field(1, field(1, b"one")[:-1])),
        entry("names", field(4, b"")),
        entry("names", b"\x0a"),
        field(1, field(1, b"caf\xc3\xa9") + field(2, b"")),
        field(1, field(1, b"caf\xe9") + field(2, b"")),
        field(1, field(1, b"no value")),
        field(1, field(2, b"")),
        entry("input_ids", value_list([1])),
        field(2, b"unknown"),
        b"\x0a",
        b"\x00",
    ],
)
def test_other_features_beyond_the_seven_are_left(extra: bytes) -> None:
    assert not is_taken(example(GOOD, extra=extra))


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("input_mask", 3, 0),
        ("input_mask", 3, 2),
        ("input_mask", 3, 129),
        ("input_mask", 0, 0),
        ("input_mask", 63, 1),
        ("input_ids", 3, -4),
        ("input_ids", 19, -1),
        ("segment_ids", 3, 2),
        ("segment_ids", 3, 128),
        ("masked_lm_weights", 1, float("nan")),
        ("masked_lm_weights", 1, 0.5),
        ("masked_lm_weights", 9, 2.0),
        ("masked_lm_positions", 1, 20),
        ("masked_lm_positions", 1, -1),
        ("masked_lm_ids", 1, -1),
        ("masked_lm_ids", 2, -1),
        ("next_sentence_labels", 0, 2),
    ],
)
def test_a_bad_value_is_left_to_the_path_that_names_it(name: str, at: int, value: float) -> None:
    features = {**GOOD, name: [value if i == at else old for i, old in enumerate(GOOD[name])]}
    with pytest.raises(ExampleError):
        read_sequence(example(features))
    assert not is_taken(example(features))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_shorter_or_mistyped_feature_is_left(name: str) -> None:
    assert not is_taken(example({other: values for other, values in GOOD.items() if other != name}))
    assert not is_taken(example({**GOOD, name: GOOD[name][1:-1] or [2]}))
    assert not is_taken(example({**GOOD, name: [*GOOD[name], type(GOOD[name][0])(0)]}))
    kind = int if name == "masked_lm_weights" else float
    assert not is_taken(example({**GOOD, name: [kind(value) for value in GOOD[name]]}))


@pytest.mark.parametrize("name", ["input_ids", "segment_ids", "masked_lm_positions", "masked_lm_ids"])
def test_padding_of_two_bytes_is_left(name: str) -> None:
    same_slots = {**GOOD, name: [*GOOD[name][:-1], 200]}
    assert same_sequence(read_sequence(example(same_slots)), read_sequence(example(GOOD)))
    assert not is_taken(example(same_slots))
    same_bytes = {**GOOD, name: [*GOOD[name][:-2], 200]}
    assert len(example(same_bytes)) == len(example(GOOD))
    assert not is_taken(example(same_bytes))


def test_weights_with_gaps_are_left_and_read() -> None:
    weights = [1.0, 0.0, 1.0, 1.0, *[0.0] * 6]
    payload = example({**GOOD, "masked_lm_weights": weights})
    assert len(read_sequence(payload).masked_ids) == 3
    assert not is_taken(payload)


def test_records_are_taken_up_to_the_first_that_is_left() -> None:
    records = [encode_record(raw_example(length, 2)) for length in (9, 10, 11)]
    records[1] = encode_record(example(GOOD, input_ids="unpacked"))
    position, sequences = take(b"".join(records), before=records[0], behind=records[2])
    assert (position, sequences.lengths.tolist()) == (len(records[0]), [9])


@pytest.mark.parametrize("behind", [b"", b"\x00" * 40, b"\xff" * 40])
def test_a_record_that_ends_behind_the_data_is_left_whatever_stands_there(behind: bytes) -> None:
    record = encode_record(raw_example(12, 2))
    for size in range(len(record)):
        assert take(record[:size], behind=record[size:] + behind)[0] == 0
    assert take(record, behind=behind)[0] == len(record)


def test_any_flipped_bit_is_left() -> None:
    record = encode_record(raw_example(5, 1, slots=6, predictions=2))
    for bit in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        assert take(bytes(flipped))[0] == 0


@pytest.mark.parametrize("length", [1000, 2**31, 2**32, 2**63, 2**64 - 1, 2**64 - FRAME_BYTES])
def test_a_length_beyond_the_data_is_left(length: int) -> None:
    payload = raw_example(5, 1)
    size = struct.pack("<Q", (length + len(payload)) % 2**64)
    header = size + encode_record(size)[-4:]
    assert take(header + encode_record(payload)[len(header) :] + payload)[0] == 0


def test_an_empty_payload_is_left() -> None:
    assert take(encode_record(b""))[0] == 0
    assert take(b"")[0] == 0


def test_the_real_encoder_and_the_tests_own_agree() -> None:
    assert example(GOOD, order=sorted(GOOD)) == encode_example(raw_features(20, 3))
