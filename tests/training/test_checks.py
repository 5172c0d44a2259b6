"""Training refuses the examples that packing would refuse, and takes the others for what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from packing.errors import ExampleError, InputError
from packing.example import encode_example, read_pack, read_sequence
from packing.features import packed_features, raw_features
from packing.in_memory import MemoryStorage
from tests.training.packs import (
    GROUPS,
    MODEL,
    PREDICTIONS,
    SLOTS,
    VOCABULARY,
    Example,
    group_sequences,
    pack,
    raw_sequences,
    shard_bytes,
    stack,
    write_packs,
)
from training.data import batch_errors, evaluation_batches
from training.examples import open_examples
from training.layout import padded_layout, parse_examples
from training.shards import Cache

pytestmark = pytest.mark.slow

SEQUENCES_A_PACK = 3
SIZES = {
    "max_sequence_length": SLOTS,
    "max_sequences_per_pack": SEQUENCES_A_PACK,
    "max_predictions_per_sequence": PREDICTIONS,
}
INTEGERS = [-(2**63), -(2**32), -1, 0, 1, 2, 3, 4, 9, 31, 32, 98, 99, 2**31, 2**32, 2**32 + 1, 2**63 - 1]
FLOATS = [-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 1e30, float("nan"), float("inf"), float("-inf")]


def parser(features: Any) -> Any:
    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(lambda batch: parse_examples(batch, features, VOCABULARY), input_signature=signature)


PARSE_RAW = parser(raw_features(SLOTS, PREDICTIONS))
PARSE_PACKED = parser(packed_features(SLOTS, PREDICTIONS, SEQUENCES_A_PACK))


def parsed(parse: Any, example: Example) -> Example | None:
    """What training makes of the second of two examples, or None if it refuses it."""
    sound = {name: np.zeros_like(values) for name, values in example.items()}
    sound |= {"input_mask": np.eye(1, SLOTS, dtype=np.int64)[0]}
    if "next_sentence_weights" in example:
        sound["next_sentence_weights"] = np.eye(1, SEQUENCES_A_PACK, dtype=np.float32)[0]
    try:
        batch = parse(tf.constant([encode_example(sound), encode_example(example)]))
    except tf.errors.InvalidArgumentError as exc:
        if "assertion failed: [expected " not in exc.message:
            raise
        return None
    return {name: values.numpy()[1] for name, values in batch.items()}


@st.composite
def damaged(draw: st.DrawFn, example: Example) -> Example:
    """The example with up to three entries altered."""
    altered = {name: values.copy() for name, values in example.items()}
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(altered)))
        values = altered[name]
        kind = FLOATS if np.issubdtype(values.dtype, np.floating) else INTEGERS
        values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from(kind))
    return altered


def within_vocabulary(*ids: np.ndarray[Any, Any]) -> bool:
    return all((values < VOCABULARY).all() for values in ids)


@settings(max_examples=400)
@given(data=st.data(), length=st.sampled_from([1, 9, SLOTS]))
def test_a_raw_example_is_taken_if_packing_takes_it(data: st.DataObject, length: int) -> None:
    example = data.draw(damaged(raw_sequences([length])[0]))
    found = parsed(PARSE_RAW, example)
    try:
        sequence = read_sequence(encode_example(example))
    except ExampleError:
        assert found is None
        return
    if not within_vocabulary(sequence.tokens, sequence.masked_ids):
        assert found is None
        return
    assert found is not None
    tokens, masked = len(sequence.tokens), found["masked_lm_weights"] == 1
    for name, expected in (("input_ids", sequence.tokens), ("segment_ids", sequence.segments)):
        np.testing.assert_array_equal(found[name], [*expected, *[0] * (SLOTS - tokens)])
    np.testing.assert_array_equal(found["masked_lm_positions"][masked], sequence.masked_positions)
    np.testing.assert_array_equal(found["masked_lm_ids"][masked], sequence.masked_ids)
    assert not found["masked_lm_positions"][~masked].any()
    assert found["next_sentence_labels"] == [sequence.label]


@settings(max_examples=400)
@given(data=st.data(), group=st.sampled_from(GROUPS))
def test_what_is_taken_for_a_pack_is_one(data: st.DataObject, group: tuple[int, ...]) -> None:
    example = data.draw(damaged(pack(raw_sequences(group), SEQUENCES_A_PACK)))
    found = parsed(PARSE_PACKED, example)
    try:
        sequences = read_pack(encode_example(example), **SIZES)
    except ExampleError:
        if found is not None:
            read_pack(encode_example(compacted(found)), **SIZES)
        return
    sound = all(within_vocabulary(one.tokens, one.masked_ids) for one in sequences)
    assert (found is not None) == sound
    if found is not None:
        for name, values in stack([example]).items():
            np.testing.assert_array_equal(found[name], values[0], err_msg=name)


def compacted(batch: Example) -> Example:
    """The pack as packing would write it: its masked tokens in the order of its sequences, without gaps."""
    weights = batch["masked_lm_weights"]
    order = np.argsort(np.where(weights > 0, weights, np.inf), kind="stable")
    masked = [name for name in batch if name.startswith("masked_lm")]
    example = {**batch, **{name: batch[name][order] for name in masked}}
    return {name: x.astype(np.int64) if x.dtype == np.int32 else x for name, x in example.items()}


def test_batches_of_sound_examples_are_as_they_are() -> None:
    """Also none at all, which is what a replica may get at the end of an evaluation."""
    raw = raw_sequences([1, 9, SLOTS])
    packs = [pack(group, SEQUENCES_A_PACK) for group in group_sequences(GROUPS)]
    for parse, examples, expected in (
        (PARSE_RAW, raw, padded_layout(stack(raw))),
        (PARSE_PACKED, packs, stack(packs)),
    ):
        for count in (len(examples), 0):
            batch = parse(tf.constant([encode_example(example) for example in examples[:count]], tf.string))
            assert set(batch) == set(expected)
            for name, values in expected.items():
                np.testing.assert_array_equal(batch[name].numpy(), values[:count], err_msg=name)


def altered(example: Example, name: str, entry: int, value: float) -> Example:
    values = example[name].copy()
    values[entry] = value
    return {**example, name: values}


RAW_DAMAGES = [
    ("masked_lm_positions", 0, 9, "masked_lm_positions within their sequence, found 9 at entry 0"),
    ("masked_lm_positions", 0, SLOTS, f"masked_lm_positions within their sequence, found {SLOTS} at entry 0"),
    ("masked_lm_positions", 0, -1, "masked_lm_positions within their sequence, found -1 at entry 0"),
    ("masked_lm_ids", 0, 2**32, "masked_lm_ids of 0 to 98 .*, found 4294967296 at entry 0"),
    ("masked_lm_weights", 0, 0.5, "masked_lm_weights of 0.0 and 1.0, found 0.5 at entry 0"),
    ("next_sentence_labels", 0, 7, "next_sentence_labels of 0 and 1, found 7 at entry 0"),
    ("segment_ids", 3, 9, "segment_ids of 0 and 1, found 9 at entry 3"),
    ("input_ids", 2, -5, "input_ids of 0 to 98 .*, found -5 at entry 2"),
    ("input_ids", 2, 2**32 + 1, "input_ids of 0 to 98 .*, found 4294967297 at entry 2"),
    ("input_ids", 2, 99, "input_ids of 0 to 98 .vocab_size is 99; give --vocab-size .*, found 99 at entry 2"),
    ("input_mask", 4, 0, "input_mask of one or more 1s, then 0s, found 1 at entry 5"),
    ("input_mask", 9, 2, "input_mask of one or more 1s, then 0s, found 2 at entry 9"),
    ("input_mask", slice(None), 0, "input_mask of one or more 1s, then 0s, found 0 at entry 0"),
]
PACKED_DAMAGES = [
    (
        "input_mask",
        slice(9, None),
        4,
        "input_mask of one or more 1s, 2s and so on up to 3, then 0s, found 4 at entry 9",
    ),
    ("input_mask", slice(None), 0, "input_mask of .*, found 0 at entry 0"),
    ("positions", 12, 12, "positions that count the slots of each sequence from 0, found 12 at entry 12"),
    ("masked_lm_positions", 0, 9, "masked_lm_positions within their sequence, found 9 at entry 0"),
    ("masked_lm_weights", 0, 4.0, "masked_lm_weights of 0.0, 1.0 and so on up to 3.0, found 4 at entry 0"),
    ("next_sentence_positions", 1, 8, "next_sentence_positions within their sequence, found 8 at entry 1"),
    ("next_sentence_weights", 1, 0.0, "next_sentence_weights of 1.0 for each sequence, found 0 at entry 1"),
    ("next_sentence_labels", 1, -1, "next_sentence_labels of 0 and 1, found -1 at entry 1"),
]


@pytest.mark.parametrize(("name", "entry", "value", "message"), RAW_DAMAGES)
def test_wrong_raw_examples_are_refused(
    storage: MemoryStorage, cache: Cache, name: str, entry: Any, value: float, message: str
) -> None:
    first, second, third = raw_sequences([5, 9, 12])
    storage.objects["/data/raw/part-0"] = shard_bytes([first, altered(second, name, entry, value), third])
    # Packing knows no vocabulary, and would find nothing.
    advice = "$" if name in ("input_ids", "masked_lm_ids") else "; `python -m packing scan /data/raw` "
    check_refused(storage, "/data/raw", cache, rf"^/data/raw: expected {message}{advice}")


@pytest.mark.parametrize(("name", "entry", "value", "message"), PACKED_DAMAGES)
def test_wrong_packs_are_refused(
    storage: MemoryStorage, cache: Cache, name: str, entry: Any, value: float, message: str
) -> None:
    packs = [pack(group, SEQUENCES_A_PACK) for group in group_sequences([(5, 5), (9, 12), (3, 4, 5)])]
    packs[1] = altered(packs[1], name, entry, value)
    uri = write_packs(storage, "/data", packs)
    check_refused(storage, uri, cache, f"^{uri}: expected {message}; `python -m packing verify {uri}` ")


def test_a_sequence_that_is_counted_from_its_middle_is_refused(storage: MemoryStorage, cache: Cache) -> None:
    whole = pack(raw_sequences([9]), SEQUENCES_A_PACK)
    shifted = (whole["positions"] - 2) * (whole["input_mask"] > 0)
    uri = write_packs(storage, "/data", [altered({**whole, "positions": shifted}, "next_sentence_positions", 0, 2)])
    check_refused(storage, uri, cache, "positions that count .* from 0, found -2 at entry 0")


def test_an_example_that_is_all_zeros_is_not_taken_for_an_empty_one(storage: MemoryStorage, cache: Cache) -> None:
    nothing = {feature.name: np.zeros(feature.length, feature.dtype) for feature in raw_features(SLOTS, PREDICTIONS)}
    storage.objects["/data/raw/part-0"] = shard_bytes([nothing] * 5)
    check_refused(storage, "/data/raw", cache, "expected input_mask of one or more 1s, then 0s, found 0 at entry 0")


def check_refused(storage: MemoryStorage, uri: str, cache: Cache, message: str) -> None:
    examples = open_examples(storage, uri, cache)
    with pytest.raises(InputError, match=message) as caught, batch_errors([examples]):
        list(evaluation_batches(examples, MODEL, batch_size=2))
    assert caught.value.exit_status == 3
