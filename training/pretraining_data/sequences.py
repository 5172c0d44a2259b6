"""Masked sentence pairs, as in Devlin et al. 2019 (arXiv 1810.04805), appendix A.2, and its published code.

A document's sentences are collected into chunks of a target length; a chunk is cut in two, and its second half is
replaced by sentences of another document half of the time. All randomness comes from the `random.Random` given.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from packing.errors import UsageError
from packing.features import raw_features
from training.pretraining_data.vocabulary import FIRST_ORDINARY_ID, SPECIAL_IDS, TokenizedDocument

CLS, SEP, MASK = (SPECIAL_IDS[token] for token in ("[CLS]", "[SEP]", "[MASK]"))
SPECIAL_TOKENS_PER_SEQUENCE = 3


@dataclass(frozen=True)
class SequenceOptions:
    """What a user decides about the sequences; the defaults are BERT's, lengths as in MLPerf."""

    max_sequence_length: int = 512
    max_predictions_per_sequence: int = 76
    short_sequence_probability: float = 0.1
    masked_share: float = 0.15

    def __post_init__(self) -> None:
        if self.max_sequence_length < SPECIAL_TOKENS_PER_SEQUENCE + 2:
            raise UsageError(f"max_sequence_length: expected at least 5, got {self.max_sequence_length}")
        if self.max_predictions_per_sequence < 1:
            raise UsageError(
                f"max_predictions_per_sequence: expected at least 1, got {self.max_predictions_per_sequence}"
            )
        for name in ("short_sequence_probability", "masked_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}: expected 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class RawSequence:
    """`[CLS] a [SEP] b [SEP]` with its masked tokens; `masked_ids` are the true tokens at `masked_positions`."""

    tokens: list[int]
    second_segment: int
    masked_positions: list[int]
    masked_ids: list[int]
    random_next: bool

    def features(self, options: SequenceOptions) -> dict[str, npt.NDArray[np.generic]]:
        """The features of MLPerf's raw format, padded with zeros (`packing.features.raw_features`)."""
        length, masked = len(self.tokens), len(self.masked_positions)
        content: dict[str, Sequence[float]] = {
            "input_ids": self.tokens,
            "input_mask": [1] * length,
            "segment_ids": [0] * self.second_segment + [1] * (length - self.second_segment),
            "masked_lm_positions": self.masked_positions,
            "masked_lm_ids": self.masked_ids,
            "masked_lm_weights": [1.0] * masked,
            "next_sentence_labels": [int(self.random_next)],
        }
        padded = {}
        for feature in raw_features(options.max_sequence_length, options.max_predictions_per_sequence):
            values = np.zeros(feature.length, dtype=feature.dtype)
            values[: len(content[feature.name])] = content[feature.name]
            padded[feature.name] = values
        return padded


def create_sequences(
    documents: Sequence[TokenizedDocument], vocabulary_size: int, options: SequenceOptions, rng: random.Random
) -> Iterator[RawSequence]:
    """One pass over two documents or more; label 1 (`random_next`) means that b is of another document."""
    for index in range(len(documents)):
        for a, b, random_next in sentence_pairs(documents, index, options, rng):
            tokens = [CLS, *a, SEP, *b, SEP]
            ordinary = [*range(1, len(a) + 1), *range(len(a) + 2, len(tokens) - 1)]
            positions = choose_masked(ordinary, len(tokens), options, rng)
            masked_ids = [tokens[position] for position in positions]
            for position in positions:
                tokens[position] = replace_token(tokens[position], vocabulary_size, rng)
            yield RawSequence(tokens, len(a) + 2, positions, masked_ids, random_next)


def sentence_pairs(
    documents: Sequence[TokenizedDocument], index: int, options: SequenceOptions, rng: random.Random
) -> Iterator[tuple[list[int], list[int], bool]]:
    """Segments a and b, neither empty, and whether b is random; together with the special tokens at most L tokens."""
    room = options.max_sequence_length - SPECIAL_TOKENS_PER_SEQUENCE
    target = rng.randint(2, room) if rng.random() < options.short_sequence_probability else room
    document, start = documents[index], 0
    while start < len(document):
        chunk = take_sentences(document, start, target)
        cut = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
        a = list(chain.from_iterable(chunk[:cut]))
        random_next = len(chunk) == 1 or rng.random() < 0.5
        if random_next:
            other = rng.randrange(len(documents) - 1)
            other_document = documents[other + (other >= index)]
            following = take_sentences(other_document, rng.randrange(len(other_document)), target - len(a))
            start += cut  # the sentences that were replaced begin the next chunk
        else:
            following = chunk[cut:]
            start += len(chunk)
        yield *truncate_pair(a, list(chain.from_iterable(following)), room, rng), random_next


def take_sentences(document: TokenizedDocument, start: int, target: int) -> TokenizedDocument:
    """Sentences from `start` until they have `target` tokens or the document ends; one at least."""
    tokens = 0
    for end in range(start, len(document)):
        tokens += len(document[end])
        if tokens >= target:
            break
    return document[start : end + 1]


def truncate_pair(a: list[int], b: list[int], room: int, rng: random.Random) -> tuple[list[int], list[int]]:
    """Shorten the longer segment, token by token, at a random end, until both have `room` tokens together."""
    bounds = [[0, len(a)], [0, len(b)]]
    for _ in range(len(a) + len(b) - room):
        longer = bounds[0] if bounds[0][1] - bounds[0][0] > bounds[1][1] - bounds[1][0] else bounds[1]
        if rng.random() < 0.5:
            longer[0] += 1
        else:
            longer[1] -= 1
    return a[slice(*bounds[0])], b[slice(*bounds[1])]


def choose_masked(ordinary: Sequence[int], length: int, options: SequenceOptions, rng: random.Random) -> list[int]:
    """The positions to predict, ascending: the masked share of all `length` tokens, one at least, P at most."""
    count = max(1, round(length * options.masked_share))
    return sorted(rng.sample(ordinary, min(count, options.max_predictions_per_sequence, len(ordinary))))


def replace_token(token: int, vocabulary_size: int, rng: random.Random) -> int:
    """[MASK] for 80 % of the chosen tokens, a random ordinary token for 10 %, the token itself for 10 %."""
    draw = rng.random()
    if draw < 0.8:
        return MASK
    return token if draw < 0.9 else rng.randrange(FIRST_ORDINARY_ID, vocabulary_size)
