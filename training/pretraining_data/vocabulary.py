"""WordPiece vocabularies: trained from text, or read from a file; special tokens always stand at BERT's ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from packing.errors import InputError, UsageError
from training.pretraining_data.documents import Document

SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
FIRST_ORDINARY_ID = 104
RESERVED = ("[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]")

TokenizedDocument = list[list[int]]
"""The token ids of each sentence of one document; no sentence is empty."""


def train_vocabulary(documents: Sequence[Document], size: int) -> list[str]:
    """At most `size` lower-case tokens, by id; the same text always gives the same vocabulary.

    Raises UsageError if `size` has no room for the special tokens and the text's characters.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    characters = {character for document in documents for sentence in document for character in sentence}
    alphabet = sorted(set(normalizer.normalize_str("".join(sorted(characters)))) - {" "})
    # The trainer numbers continuing characters in the order of a randomly seeded hash map, and ties between merges are
    # broken by these numbers. As "special" tokens they are numbered before, in our order.
    fixed = [*RESERVED, *(f"##{character}" for character in alphabet)]
    if size < len(fixed) + len(alphabet):
        raise UsageError(f"vocabulary size: expected at least {len(fixed) + len(alphabet)} for this text, got {size}")
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=fixed, limit_alphabet=len(alphabet), min_frequency=2, show_progress=False
    )
    tokenizer = _tokenizer({token: number for number, token in enumerate(RESERVED)})
    tokenizer.train_from_iterator((sentence for document in documents for sentence in document), trainer)
    numbers: dict[str, int] = tokenizer.get_vocab()
    return sorted(numbers, key=numbers.__getitem__)


def read_vocabulary(path: Path) -> list[str]:
    """A `vocab.txt` with one token a line; raises InputError unless the special tokens stand at BERT's ids."""
    try:
        tokens = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: not a readable vocabulary ({exc})") from exc
    for token, number in SPECIAL_IDS.items():
        found = tokens[number] if number < len(tokens) else "the file's end"
        if found != token:
            raise InputError(f"{path}: line {number + 1}: expected {token}, found {found}; use a BERT vocabulary")
    if len(tokens) <= FIRST_ORDINARY_ID:
        raise InputError(f"{path}: expected tokens after [MASK], found none")
    if len(set(tokens)) != len(tokens):
        raise InputError(f"{path}: expected distinct tokens, found {len(tokens) - len(set(tokens))} repeated")
    return tokens


def tokenize(documents: Sequence[Document], vocabulary: Sequence[str]) -> list[TokenizedDocument]:
    """Token ids by document and sentence (BERT's uncased rules); sentences and documents without any are left out."""
    tokenizer = _tokenizer({token: number for number, token in enumerate(vocabulary)})
    sentences = [sentence for document in documents for sentence in document]
    encodings = iter(tokenizer.encode_batch_fast(sentences, add_special_tokens=False))
    tokenized = [[ids for _ in document if (ids := next(encodings).ids)] for document in documents]
    return [document for document in tokenized if document]


def _tokenizer(numbers: dict[str, int]) -> Any:
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))  # noqa: S106 - a token of text, not of access
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
