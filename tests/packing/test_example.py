from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import ExampleError
from packing.example import (
    RawSequence,
    assemble_pack,
    decode_example,
    encode_example,
    read_pack,
    read_sequence,
)
from packing.features import packed_features
from tests.builders import raw_example, raw_features

SHAPE = {"max_sequence_length": 64, "max_sequences_per_pack": 4, "max_predictions_per_sequence": 30}


@st.composite
def sequences_of_a_pack(draw: st.DrawFn) -> list[RawSequence]:
    lengths = draw(st.lists(st.integers(1, 16), min_size=1, max_size=4))
    return [
        read_sequence(raw_example(length, draw(st.integers(0, min(length, 8))), seed=number))
        for number, length in enumerate(lengths)
    ]


def same(one: RawSequence, other: RawSequence) -> bool:
    return one.label == other.label and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("tokens", "segments", "masked_positions", "masked_ids")
    )


@given(st.integers(1, 64), st.integers(0, 10), st.integers(0, 5))
def test_a_raw_example_is_read_without_its_padding(length: int, masked: int, seed: int) -> None:
    masked = min(masked, length)
    features = raw_features(length, masked, seed=seed)
    sequence = read_sequence(encode_example(features))
    assert sequence.tokens.tolist() == features["input_ids"][:length].tolist()
    assert sequence.segments.tolist() == features["segment_ids"][:length].tolist()
    assert sequence.masked_positions.tolist() == features["masked_lm_positions"][:masked].tolist()
    assert sequence.masked_ids.tolist() == features["masked_lm_ids"][:masked].tolist()
    assert sequence.label == features["next_sentence_labels"][0]


@given(sequences_of_a_pack())
def test_a_pack_gives_its_sequences_back(sequences: list[RawSequence]) -> None:
    payload = encode_example(assemble_pack(sequences, **SHAPE))
    back = read_pack(payload, **SHAPE)
    assert len(back) == len(sequences)
    assert all(same(one, other) for one, other in zip(sequences, back, strict=True))


def test_a_pack_by_hand() -> None:
    a = RawSequence(np.array([5, 6, 7]), np.array([0, 0, 1]), np.array([1]), np.array([60]), 1)
    b = RawSequence(np.array([8, 9]), np.array([0, 1]), np.array([0, 1]), np.array([80, 90]), 0)
    pack = assemble_pack([a, b], max_sequence_length=7, max_sequences_per_pack=3, max_predictions_per_sequence=2)
    assert {name: values.tolist() for name, values in pack.items()} == {
        "input_ids": [5, 6, 7, 8, 9, 0, 0],
        "input_mask": [1, 1, 1, 2, 2, 0, 0],
        "segment_ids": [0, 0, 1, 0, 1, 0, 0],
        "positions": [0, 1, 2, 0, 1, 0, 0],
        "masked_lm_positions": [1, 3, 4, 0, 0],
        "masked_lm_ids": [60, 80, 90, 0, 0],
        "masked_lm_weights": [1.0, 2.0, 2.0, 0.0, 0.0],
        "next_sentence_positions": [0, 3, 0],
        "next_sentence_labels": [1, 0, 0],
        "next_sentence_weights": [1.0, 1.0, 0.0],
    }


@given(sequences_of_a_pack(), st.data())
def test_no_altered_feature_of_a_pack_goes_unnoticed_as_another_layout(
    sequences: list[RawSequence], data: st.DataObject
) -> None:
    """A changed value is refused, or it is content (a token, an id, a segment, a label) and comes back changed."""
    pack = assemble_pack(sequences, **SHAPE)
    name = data.draw(st.sampled_from(sorted(pack)))
    at = data.draw(st.integers(0, len(pack[name]) - 1))
    pack[name][at] += 1
    try:
        back = read_pack(encode_example(pack), **SHAPE)
    except ExampleError:
        return
    assert name not in ("input_mask", "positions", "next_sentence_positions", "next_sentence_weights")
    assert not all(same(one, other) for one, other in zip(sequences, back, strict=True))


def damaged(**changes: object) -> bytes:
    features = raw_features(20, 3)
    for name, value in changes.items():
        if value is None:
            del features[name]
        else:
            features[name] = np.asarray(value)
    return encode_example(features)


def with_entry(name: str, at: int, value: float) -> bytes:
    values = raw_features(20, 3)[name]
    values[at] = value
    return damaged(**{name: values})


@pytest.mark.parametrize(
    ("payload", "expected", "found"),
    [
        (b"\xff\xff not protobuf", "a serialized tf.train.Example", "bytes that are none"),
        (b"", "feature input_ids", "none"),
        (damaged(segment_ids=None), "feature segment_ids", "input_mask"),
        (damaged(masked_lm_weights=[1, 1, 1]), "feature masked_lm_weights of type float32", "int64"),
        (damaged(input_ids=np.ones(63, np.int64)), "equally long", "input_ids[63]"),
        (damaged(masked_lm_ids=np.ones(9, np.int64)), "equally long", "masked_lm_ids[9]"),
        (with_entry("input_mask", 3, 0), "input_mask of one or more 1s", "[1 1 1 0"),
        (with_entry("input_mask", 3, 2), "input_mask of one or more 1s", "2"),
        (damaged(input_mask=np.zeros(64, np.int64)), "input_mask of one or more 1s", "[0 0"),
        (with_entry("input_ids", 3, -4), "input_ids >= 0", "-4 at entry 3"),
        (with_entry("segment_ids", 3, 2), "segment_ids in 0..1", "2 at entry 3"),
        (with_entry("masked_lm_weights", 1, np.nan), "masked_lm_weights of 0.0 and 1.0", "nan"),
        (with_entry("masked_lm_weights", 1, 0.5), "masked_lm_weights of 0.0 and 1.0", "0.5"),
        (with_entry("masked_lm_positions", 1, 20), "masked_lm_positions in 0..19", "20"),
        (with_entry("masked_lm_positions", 1, -1), "masked_lm_positions in 0..19", "-1"),
        (with_entry("masked_lm_ids", 1, -1), "masked_lm_ids >= 0", "-1"),
        (with_entry("next_sentence_labels", 0, 2), "next_sentence_labels in 0..1", "2"),
        (damaged(next_sentence_labels=np.array([0, 1])), "next_sentence_labels", "[0 1]"),
    ],
)
def test_what_a_bad_raw_example_is_refused_for(payload: bytes, expected: str, found: str) -> None:
    with pytest.raises(ExampleError) as caught:
        read_sequence(payload)
    assert expected in caught.value.expected
    assert found in caught.value.found


def test_features_beyond_the_seven_are_ignored() -> None:
    features = raw_features(20, 3)
    plain = read_sequence(encode_example(features))
    features["extra"] = np.arange(3)
    assert same(plain, read_sequence(encode_example(features)))


@pytest.mark.slow
def test_tensorflow_agrees_on_both_directions() -> None:
    import tensorflow as tf

    sequences = [read_sequence(raw_example(length, 3, seed=length)) for length in (10, 20, 30)]
    pack = assemble_pack(sequences, **SHAPE)
    payload = encode_example(pack)
    schema = {
        feature.name: tf.io.FixedLenFeature([feature.length], feature.dtype) for feature in packed_features(64, 30, 4)
    }
    parsed = tf.io.parse_single_example(payload, schema)
    assert set(parsed) == set(pack)
    for name, values in parsed.items():
        assert values.numpy().tolist() == pack[name].tolist()
    example = tf.train.Example.FromString(payload)
    assert example.SerializeToString(deterministic=True) == payload
    decoded = decode_example(example.SerializeToString())
    assert all(np.array_equal(decoded[name], pack[name]) for name in pack)
