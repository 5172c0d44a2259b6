"""What training takes for granted of packs, checked for a whole batch in the graph: the contract of packed features.

A wrong position would be gathered from the next pack of the batch, and a wrong id on a GPU as zeros, both without a
word. A raw sequence is checked as a pack of one, for what `packing.example.read_sequence` demands of it. Like packing,
training makes nothing of what stands in padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from training.model import Batch

_HELD = {
    "input_mask": ("input_ids", "segment_ids", "positions"),
    "masked_lm_weights": ("masked_lm_positions", "masked_lm_ids"),
    "next_sentence_weights": ("next_sentence_positions", "next_sentence_labels"),
}
"""The features whose entries hold something where that of the key is above 0."""


class Check(NamedTuple):
    """`wrong` bool[B, n] marks those of `values` [B, n] that are not as `expected`."""

    expected: str
    values: tf.Tensor
    wrong: tf.Tensor


def clear_padding(packs: Batch) -> dict[str, tf.Tensor]:
    """The same packs with 0 wherever they hold nothing."""
    cleared = dict(packs)
    for key, names in _HELD.items():
        held = packs[key] > 0
        cleared.update({name: tf.where(held, packs[name], tf.zeros_like(packs[name])) for name in names})
    return cleared


def assert_valid(packs: Batch, vocabulary: int) -> tf.Operation:
    """Fails with the first thing that is wrong with packs of int64 and float32 features, cleared of padding."""
    checks = (*_slots(packs, vocabulary), *_masked_tokens(packs, vocabulary), *_next_sentences(packs))
    found = tf.concat([_describe(check) for check in checks], axis=0)
    return tf.debugging.Assert(tf.equal(tf.size(found), 0), [tf.strings.reduce_join(found[:1])])


def _slots(packs: Batch, vocabulary: int) -> Iterator[Check]:
    mask, most = packs["input_mask"], packs["next_sentence_positions"].shape[1]
    slots = tf.range(mask.shape[1], dtype=mask.dtype)[None, :]
    before, first = tf.pad(mask[:, :-1], [[0, 0], [1, 0]]), tf.equal(slots, 0)
    begins = tf.equal(mask, before + 1) & ((before > 0) | first)
    goes_on = (tf.equal(mask, before) | tf.equal(mask, 0)) & ~first
    numbers = "one or more 1s" if most == 1 else f"one or more 1s, 2s and so on up to {most}"
    yield Check(f"input_mask of {numbers}, then 0s", mask, ~(begins | goes_on) | _outside(mask, most))
    yield _ids("input_ids", packs, vocabulary)
    yield Check("segment_ids of 0 and 1", packs["segment_ids"], _outside(packs["segment_ids"], 1))


def _masked_tokens(packs: Batch, vocabulary: int) -> Iterator[Check]:
    weights, positions = packs["masked_lm_weights"], packs["masked_lm_positions"]
    most = packs["next_sentence_positions"].shape[1]
    numbers = tf.clip_by_value(tf.floor(weights), 0, most)
    wanted = "0.0 and 1.0" if most == 1 else f"0.0, 1.0 and so on up to {most}.0"
    yield Check(f"masked_lm_weights of {wanted}", weights, tf.not_equal(weights, numbers))
    elsewhere = tf.not_equal(_owner(packs, positions), tf.cast(numbers, positions.dtype))
    yield Check("masked_lm_positions within their sequence", positions, (weights > 0) & elsewhere)
    yield _ids("masked_lm_ids", packs, vocabulary)


def _next_sentences(packs: Batch) -> Iterator[Check]:
    weights, positions = packs["next_sentence_weights"], packs["next_sentence_positions"]
    numbers = tf.range(1, positions.shape[1] + 1, dtype=positions.dtype)[None, :]
    wanted = tf.cast(numbers <= tf.reduce_max(packs["input_mask"], axis=1, keepdims=True), weights.dtype)
    yield Check("next_sentence_weights of 1.0 for each sequence", weights, tf.not_equal(weights, wanted))
    elsewhere = tf.not_equal(_owner(packs, positions), numbers)
    yield Check("next_sentence_positions within their sequence", positions, (weights > 0) & elsewhere)
    labels = packs["next_sentence_labels"]
    yield Check("next_sentence_labels of 0 and 1", labels, _outside(labels, 1))
    counted = tf.equal(packs["positions"], _places(packs)) & (packs["positions"] >= 0)
    uncounted = (packs["input_mask"] > 0) & ~counted
    yield Check("positions that count the slots of each sequence from 0", packs["positions"], uncounted)


def _ids(name: str, packs: Batch, vocabulary: int) -> Check:
    expected = f"{name} of 0 to {vocabulary - 1} (vocab_size is {vocabulary}; give --vocab-size for another)"
    return Check(expected, packs[name], _outside(packs[name], vocabulary - 1))


def _outside(values: tf.Tensor, highest: int) -> tf.Tensor:
    return (values < 0) | (values > highest)


def _owner(packs: Batch, positions: tf.Tensor) -> tf.Tensor:
    """The number of the sequence that has each position, -1 for one that is none."""
    mask = packs["input_mask"]
    inside = tf.clip_by_value(positions, 0, mask.shape[1] - 1)
    return tf.where(tf.equal(positions, inside), tf.gather(mask, inside, batch_dims=1), -1)


def _places(packs: Batch) -> tf.Tensor:
    """How far each slot is from the first one of its sequence."""
    mask, starts = packs["input_mask"], packs["next_sentence_positions"]
    owners = tf.clip_by_value(mask - 1, 0, starts.shape[1] - 1)
    return tf.range(mask.shape[1], dtype=mask.dtype)[None, :] - tf.gather(starts, owners, batch_dims=1)


def _describe(check: Check) -> tf.Tensor:
    """The first wrong value in words, string[1], or string[0] if there is none."""
    place = tf.where(check.wrong)[:1]
    value = tf.gather_nd(check.values, place)
    text = tf.strings.as_string(value, shortest=True) if value.dtype.is_floating else tf.strings.as_string(value)
    entry = tf.strings.as_string(place[:, 1])
    return tf.strings.join([f"expected {check.expected}, found ", text, " at entry ", entry])
