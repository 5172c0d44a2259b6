"""The feature schemas of raw and packed examples; writing, verification and training all read this one source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Feature:
    """One fixed-length feature of a serialized `tf.train.Example`."""

    name: str
    dtype: Literal["int64", "float32"]
    length: int


def raw_features(max_sequence_length: int, max_predictions_per_sequence: int) -> tuple[Feature, ...]:
    """The features of MLPerf's BERT pretraining data, lengths L and P as given."""
    slots, predictions = max_sequence_length, max_predictions_per_sequence
    return (
        Feature("input_ids", "int64", slots),
        Feature("input_mask", "int64", slots),
        Feature("segment_ids", "int64", slots),
        Feature("masked_lm_positions", "int64", predictions),
        Feature("masked_lm_ids", "int64", predictions),
        Feature("masked_lm_weights", "float32", predictions),
        Feature("next_sentence_labels", "int64", 1),
    )


def packed_features(
    max_sequence_length: int, max_predictions_per_sequence: int, max_sequences_per_pack: int
) -> tuple[Feature, ...]:
    """The features of packed data: L slots, M = P + K masked slots, K sequences (Habana's packed BERT layout)."""
    slots, sequences = max_sequence_length, max_sequences_per_pack
    predictions = max_predictions_per_sequence + max_sequences_per_pack
    return (
        Feature("input_ids", "int64", slots),
        Feature("input_mask", "int64", slots),
        Feature("segment_ids", "int64", slots),
        Feature("positions", "int64", slots),
        Feature("masked_lm_positions", "int64", predictions),
        Feature("masked_lm_ids", "int64", predictions),
        Feature("masked_lm_weights", "float32", predictions),
        Feature("next_sentence_positions", "int64", sequences),
        Feature("next_sentence_labels", "int64", sequences),
        Feature("next_sentence_weights", "float32", sequences),
    )
