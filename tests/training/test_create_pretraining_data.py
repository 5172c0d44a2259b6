"""Properties of raw pretraining data made from text."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import InputError, UsageError
from packing.example import decode_example, read_sequence
from packing.features import raw_features
from packing.in_memory import MemoryStorage
from packing.tfrecord import decompress, read_records
from training.create_pretraining_data import Options, PretrainingData, create_pretraining_data, main
from training.pretraining_data.documents import Document, parse_documents, split_held_out
from training.pretraining_data.sequences import (
    CLS,
    MASK,
    SEP,
    SequenceOptions,
    create_sequences,
    sentence_pairs,
    truncate_pair,
)
from training.pretraining_data.vocabulary import (
    FIRST_ORDINARY_ID,
    SPECIAL_IDS,
    read_vocabulary,
    tokenize,
    train_vocabulary,
)

SLOTS, PREDICTIONS = 64, 8
OPTIONS = Options(SequenceOptions(SLOTS, PREDICTIONS), vocabulary_size=400, duplicates=2, held_out=0.2, shards=3)
WORDS = [
    "packs",
    "hold",
    "sequences",
    "whose",
    "lengths",
    "add",
    "up",
    "to",
    "the",
    "slots",
    "of",
    "one",
    "example",
    "and",
    "nothing",
    "is",
    "lost",
    "between",
]


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - reproducible, not secret


def make_documents(count: int = 30, seed: int = 0) -> list[Document]:
    """Documents of 2 to 12 sentences; every sentence of document i holds the number i and no other number."""
    rng = seeded(seed)
    return [
        [" ".join([*rng.choices(WORDS, k=rng.randint(3, 12)), str(number)]) for _ in range(rng.randint(2, 12))]
        for number in range(1000, 1000 + count)
    ]


def create(
    options: Options = OPTIONS, documents: list[Document] | None = None
) -> tuple[MemoryStorage, PretrainingData]:
    storage = MemoryStorage()
    return storage, create_pretraining_data(storage, "/out", documents or make_documents(), options)


def payloads(storage: MemoryStorage, prefix: str) -> list[bytes]:
    shards = [info.uri for info in storage.list(prefix)]
    return [payload for uri in shards for _, payload in read_records(decompress(storage.read(uri), uri), uri)]


@pytest.fixture(scope="module")
def created() -> tuple[MemoryStorage, PretrainingData]:
    return create()


@pytest.mark.parametrize("part", ["train", "held-out"])
def test_examples_have_exactly_the_raw_features(created: tuple[MemoryStorage, PretrainingData], part: str) -> None:
    storage, _ = created
    records = payloads(storage, f"/out/{part}")
    assert records
    for payload in records:
        found = {name: (values.dtype.name, len(values)) for name, values in decode_example(payload).items()}
        assert found == {f.name: (f.dtype, f.length) for f in raw_features(SLOTS, PREDICTIONS)}


def test_examples_are_valid_sentence_pairs(created: tuple[MemoryStorage, PretrainingData]) -> None:
    storage, data = created
    records = payloads(storage, "/out/train")
    for payload in records:
        sequence = read_sequence(payload)  # refuses masks with holes and positions outside
        tokens, length = sequence.tokens, len(sequence.tokens)
        separators = np.flatnonzero(tokens == SEP)
        assert tokens[0] == CLS
        assert len(separators) == 2
        assert separators[1] == length - 1
        assert separators[0] > 1
        assert separators[1] > separators[0] + 1
        assert sequence.segments.tolist() == [0] * (separators[0] + 1) + [1] * (length - separators[0] - 1)
        assert tokens.max() < data.vocabulary_size
        assert sequence.masked_ids.max() < data.vocabulary_size
        assert {0, *separators.tolist()}.isdisjoint(sequence.masked_positions)
        assert (np.diff(sequence.masked_positions) > 0).all()
        assert len(sequence.masked_positions) == min(PREDICTIONS, max(1, round(0.15 * length)))
        assert not decode_example(payload)["input_ids"][length:].any()


def test_counts_lengths_and_labels(created: tuple[MemoryStorage, PretrainingData]) -> None:
    storage, data = created
    sequences = [read_sequence(payload) for payload in payloads(storage, "/out/train")]
    lengths = [len(sequence.tokens) for sequence in sequences]
    assert (data.train.sequences, data.train.tokens) == (len(sequences), sum(lengths))
    assert data.held_out is not None
    assert data.held_out.sequences == len(payloads(storage, "/out/held-out"))
    assert max(lengths) == SLOTS
    assert min(lengths) < SLOTS / 2
    assert len(set(lengths)) > 10
    assert {sequence.label for sequence in sequences} == {0, 1}


def test_held_out_documents_are_never_trained_on() -> None:
    documents = make_documents()
    storage, data = create(documents=documents)
    vocabulary = storage.read(data.vocabulary).decode().split("\n")
    # Masking hides some numbers, so the true tokens are put back before they are read.
    seen: dict[str, set[str]] = {}
    for part in ("train", "held-out"):
        texts = []
        for payload in payloads(storage, f"/out/{part}"):
            sequence = read_sequence(payload)
            tokens = sequence.tokens.copy()
            tokens[sequence.masked_positions] = sequence.masked_ids
            texts.append(" ".join(vocabulary[token] for token in tokens).replace(" ##", ""))
        seen[part] = {word for text in texts for word in text.split() if word.isdigit() and len(word) == 4}
    assert len(seen["train"]) > 20
    assert seen["held-out"]
    assert seen["train"].isdisjoint(seen["held-out"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again, other = (create(replace(OPTIONS, seed=seed))[0].objects for seed in (1, 1, 2))
    assert first == again
    assert set(first) == set(other)
    assert all(first[uri] != other[uri] for uri in first if uri.endswith(".tfrecord"))


def test_duplicates_are_masked_anew() -> None:
    storage, _ = create(replace(OPTIONS, duplicates=5))
    records = payloads(storage, "/out/train")
    assert len(set(records)) == len(records)


def test_compressed_shards_hold_the_same_records() -> None:
    plain, compressed = (create(replace(OPTIONS, compress=compress))[0] for compress in (False, True))
    for uri in (info.uri for info in plain.list("/out/train")):
        stored = compressed.read(uri)
        assert gzip.decompress(stored) == plain.read(uri)
        assert stored[4:8] == bytes(4), "the time of writing must not reach the bytes"


def test_masking_follows_the_published_shares() -> None:
    storage, _ = create(replace(OPTIONS, duplicates=20))
    counts = {"masked": 0, "kept": 0, "random": 0}
    for payload in payloads(storage, "/out/train"):
        sequence = read_sequence(payload)
        for shown, true in zip(sequence.tokens[sequence.masked_positions], sequence.masked_ids, strict=True):
            counts["masked" if shown == MASK else "kept" if shown == true else "random"] += 1
    total = sum(counts.values())
    assert total > 5000
    assert counts["masked"] / total == pytest.approx(0.8, abs=0.03)
    assert counts["kept"] / total == pytest.approx(0.1, abs=0.03)
    assert counts["random"] / total == pytest.approx(0.1, abs=0.03)


def numbered_documents(sizes: list[list[int]]) -> list[list[list[int]]]:
    """Tokenized documents in which every token is unique."""
    tokens = itertools.count(FIRST_ORDINARY_ID)
    return [[[next(tokens) for _ in range(size)] for size in document] for document in sizes]


@given(
    st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=8), min_size=2, max_size=5),
    st.integers(5, 60),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_pairs_fit_and_their_label_tells_where_b_comes_from(
    sizes: list[list[int]], slots: int, short: float, seed: int
) -> None:
    documents, rng = numbered_documents(sizes), seeded(seed)
    options = SequenceOptions(slots, 5, short_sequence_probability=short)
    home = {token: number for number, document in enumerate(documents) for sentence in document for token in sentence}
    for index in range(len(documents)):
        pairs = list(sentence_pairs(documents, index, options, rng))
        assert pairs
        for a, b, random_next in pairs:
            assert a
            assert b
            assert len(a) + len(b) + 3 <= slots
            assert {home[token] for token in a} == {index}
            assert {home[token] == index for token in b} == {not random_next}


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 60), st.integers(0, 2**32))
def test_truncation_leaves_a_run_of_each_segment(a: int, b: int, room: int, seed: int) -> None:
    first, second = list(range(a)), list(range(100, 100 + b))
    kept_a, kept_b = truncate_pair(first, second, room, seeded(seed))
    assert len(kept_a) + len(kept_b) == min(a + b, room)
    for kept, whole in ((kept_a, first), (kept_b, second)):
        assert kept
        assert kept == whole[kept[0] - whole[0] : kept[0] - whole[0] + len(kept)]


def test_every_sentence_is_used_in_a_pass() -> None:
    documents = numbered_documents([[3, 4, 2, 5], [6, 1], [2, 2, 2]])
    options = SequenceOptions(512, 76)
    rng = seeded(0)
    sequences = list(create_sequences(documents, 1000, options, rng))
    true_tokens = set()
    for sequence in sequences:
        tokens = list(sequence.tokens)
        for position, token in zip(sequence.masked_positions, sequence.masked_ids, strict=True):
            tokens[position] = token
        true_tokens.update(tokens)
    assert {token for document in documents for sentence in document for token in sentence} <= true_tokens


def test_a_trained_vocabulary_has_berts_layout_and_covers_the_text() -> None:
    documents = make_documents()
    vocabulary = train_vocabulary(documents, 400)
    assert len(vocabulary) == len(set(vocabulary)) <= 400
    assert {token: vocabulary.index(token) for token in SPECIAL_IDS} == SPECIAL_IDS
    assert vocabulary == train_vocabulary(documents, 400)
    tokens = {token for document in tokenize(documents, vocabulary) for sentence in document for token in sentence}
    assert SPECIAL_IDS["[UNK]"] not in tokens
    assert min(tokens) >= FIRST_ORDINARY_ID


def test_a_vocabulary_too_small_for_the_alphabet_is_refused() -> None:
    with pytest.raises(UsageError, match="expected at least"):
        train_vocabulary(make_documents(), 110)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tokens: tokens[1:], r"line 1: expected \[PAD\], found \[unused0\]"),
        (lambda tokens: tokens[:50], r"line 101: expected \[UNK\], found the file's end"),
        (lambda tokens: tokens[:104], r"after \[MASK\]"),
        (lambda tokens: [*tokens, tokens[-1]], "1 repeated"),
    ],
)
def test_a_vocabulary_of_another_layout_is_refused(tmp_path: Path, change: object, message: str) -> None:
    vocabulary, file = train_vocabulary(make_documents(), 400), tmp_path / "vocab.txt"
    file.write_text("\n".join(vocabulary))
    assert read_vocabulary(file) == vocabulary
    file.write_text("\n".join(change(vocabulary)))  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        read_vocabulary(file)


def test_documents_are_separated_by_empty_lines() -> None:
    assert parse_documents("\n a b \nc\n\n\n \nd\n") == [["a b", "c"], ["d"]]


@given(st.integers(4, 60), st.floats(0, 0.9), st.integers(0, 2**32))
def test_a_split_loses_and_shares_no_document(count: int, share: float, seed: int) -> None:
    documents = [[str(number)] for number in range(count)]
    try:
        training, held_out = split_held_out(documents, share, seeded(seed))
    except InputError:
        assert count - max(2, round(count * share)) < 2
        return
    assert sorted(training + held_out, key=lambda document: int(document[0])) == documents
    assert len(held_out) == (max(2, round(count * share)) if share else 0)


def test_the_command_writes_the_files_and_says_so_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join("\n".join(document) for document in make_documents()))
    output = tmp_path / "out"
    arguments = [str(text), "--output", str(output), "--vocabulary-size", "400", "--max-sequence-length", "64"]
    assert main([*arguments, "--max-predictions-per-sequence", "8", "--shards", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["train"]["sequences"] > 0
    assert len(list((output / "train").iterdir())) == 2
    assert len(read_vocabulary(output / "vocabulary.txt")) == result["vocabulary_size"]
    with_vocabulary = [str(text), "--output", str(tmp_path / "b"), "--vocabulary", str(output / "vocabulary.txt")]
    assert main(with_vocabulary) == 0


@pytest.mark.parametrize(
    ("content", "arguments", "status", "message"),
    [
        (b"", [], 3, "at least one sentence"),
        (b"one\n", [], 3, "at least 4 documents"),
        (b"caf\xe9\n", [], 3, "byte 0xe9 at offset 3"),
        (b"one\n", ["--held-out", "1"], 2, "held-out"),
        (b"one\n", ["--shards", "0"], 2, "shards"),
        (b"one\n", ["--max-sequence-length", "4"], 2, "at least 5"),
        (b"one\n", ["--masked-share", "1.5"], 2, "masked_share"),
    ],
)
def test_the_command_refuses_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, arguments: list[str], status: int, message: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    assert main([str(text), "--output", str(tmp_path / "out"), *arguments]) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.txt"), "--output", str(tmp_path / "out")]) == 3
    assert "none.txt: cannot be read" in capsys.readouterr().err
