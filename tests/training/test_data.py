from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packing.errors import InputError, RecordError, UsageError, VerificationError
from packing.ports import MemoryStorage
from packing.tfrecord import encode_record
from tests.training.packs import (
    GROUPS,
    MODEL,
    PREDICTIONS,
    SLOTS,
    VOCABULARY,
    group_sequences,
    pack,
    raw_sequences,
    shard_bytes,
    stack,
)
from training.data import check_model, evaluation_batches, open_examples, padded_layout, training_batches

pytestmark = pytest.mark.slow

Dataset = tuple[str, str]
FIRST_SHARD = "/data/packed/part-00000.tfrecord"


def ids(batches: tf.data.Dataset) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in batches for row in batch["input_ids"].numpy()]


def test_a_manifest_gives_the_packs_it_lists(storage: MemoryStorage, dataset: Dataset, tmp_path: Path) -> None:
    examples = open_examples(storage, dataset[0], tmp_path)
    expected = stack([pack(group, 3) for group in group_sequences(GROUPS)])
    (batch,) = evaluation_batches(examples, MODEL)
    assert examples.packing_factor == sum(map(len, GROUPS)) / len(GROUPS)
    assert set(batch) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(batch[name].numpy(), values, err_msg=name)
        assert batch[name].dtype.as_numpy_dtype == values.dtype


def test_raw_shards_give_packs_of_one(storage: MemoryStorage, dataset: Dataset, tmp_path: Path) -> None:
    examples = open_examples(storage, dataset[1], tmp_path)
    expected = stack([pack([sequence], 1) for group in group_sequences(GROUPS) for sequence in group])
    (batch,) = evaluation_batches(examples, MODEL, batch_size=100)
    assert examples.packing_factor == 1
    assert examples.recipe_id is None
    assert set(batch) == set(expected)
    for name, values in expected.items():
        if name.startswith("masked_lm"):
            assert not values[:, PREDICTIONS:].any()
            values = values[:, :PREDICTIONS]  # noqa: PLW2901
        np.testing.assert_array_equal(batch[name].numpy(), values, err_msg=name)


def test_padded_layout_keeps_the_mask_of_one_sequence() -> None:
    (batch,) = [padded_layout(stack(raw_sequences([5])))]
    np.testing.assert_array_equal(batch["positions"].numpy()[0], [0, 1, 2, 3, 4] + [0] * (SLOTS - 5))


def test_the_last_evaluation_batch_may_be_smaller_and_a_limit_holds(
    storage: MemoryStorage, dataset: Dataset, tmp_path: Path
) -> None:
    examples = open_examples(storage, dataset[1], tmp_path)
    sizes = [len(b["input_ids"]) for b in evaluation_batches(examples, MODEL, batch_size=5, limit=12)]
    assert sizes == [5, 5, 2]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31 - 1), batch_size=st.integers(1, 20), start=st.integers(0, 30))
def test_any_position_continues_the_same_order(
    storage: MemoryStorage, dataset: Dataset, tmp_path: Path, seed: int, batch_size: int, start: int
) -> None:
    examples = open_examples(storage, dataset[1], tmp_path)
    count = len(examples.records)

    def order(position: int, wanted: int) -> list[tuple[int, ...]]:
        batches = training_batches(examples, MODEL, batch_size=batch_size, seed=seed, start=position)
        return ids(batches.take(-(-wanted // batch_size)))[:wanted]

    whole = order(0, 3 * count)
    assert whole[start:] == order(start, 3 * count - start)
    epochs = [whole[:count], whole[count : 2 * count], whole[2 * count :]]
    assert all(Counter(epoch) == Counter(epochs[0]) and max(Counter(epoch).values()) == 1 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_an_altered_shard_is_named_with_its_digests(storage: MemoryStorage, dataset: Dataset, tmp_path: Path) -> None:
    content = bytearray(storage.objects[FIRST_SHARD])
    content[100] ^= 1
    storage.objects[FIRST_SHARD] = bytes(content)
    with pytest.raises(VerificationError, match=f"{FIRST_SHARD}: expected .* SHA-256"):
        open_examples(storage, dataset[0], tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_missing_shard_is_named(storage: MemoryStorage, dataset: Dataset, tmp_path: Path) -> None:
    del storage.objects[FIRST_SHARD]
    with pytest.raises(VerificationError, match=FIRST_SHARD):
        open_examples(storage, dataset[0], tmp_path)


def test_cached_shards_are_checked_and_not_read_again(storage: MemoryStorage, dataset: Dataset, tmp_path: Path) -> None:
    open_examples(storage, dataset[0], tmp_path)
    storage.requests.clear()
    open_examples(storage, dataset[0], tmp_path)
    assert [request for request in storage.requests if request[0] == "read"] == [("read", dataset[0])]
    damaged = sorted(tmp_path.iterdir())[0]
    damaged.write_bytes(b"something else")
    examples = open_examples(storage, dataset[0], tmp_path)
    assert len(examples.records) == len(GROUPS)


def test_changed_raw_shards_are_read_again(storage: MemoryStorage, dataset: Dataset, tmp_path: Path) -> None:
    open_examples(storage, dataset[1], tmp_path)
    storage.objects["/data/raw/part-0"] = shard_bytes(raw_sequences([9]))
    assert len(open_examples(storage, dataset[1], tmp_path).records) == 13


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (shard_bytes(raw_sequences([9]))[:-1], "cut off"),
        (b"no record at all, but some text", "not a TFRecord"),
    ],
)
def test_damaged_raw_shards_are_named(storage: MemoryStorage, tmp_path: Path, content: bytes, message: str) -> None:
    storage.objects["/data/raw/part-0"] = content
    with pytest.raises(RecordError, match=f"/data/raw/part-0: record 0 at offset 0.*{message}"):
        open_examples(storage, "/data/raw", tmp_path)


@pytest.mark.parametrize("content", [b"", encode_record(b"text"), encode_record(b"")])
def test_raw_data_without_examples_is_refused(storage: MemoryStorage, tmp_path: Path, content: bytes) -> None:
    storage.objects["/data/raw/part-0"] = content
    with pytest.raises(InputError, match="/data/raw"):
        open_examples(storage, "/data/raw", tmp_path)


def test_token_ids_beyond_the_vocabulary_are_refused(storage: MemoryStorage, dataset: Dataset, tmp_path: Path) -> None:
    examples = open_examples(storage, dataset[0], tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError, match="vocab_size"):
        ids(evaluation_batches(examples, replace(MODEL, vocab_size=VOCABULARY - 10)))


def test_data_longer_than_the_position_embeddings_is_refused(
    storage: MemoryStorage, dataset: Dataset, tmp_path: Path
) -> None:
    examples = open_examples(storage, dataset[0], tmp_path)
    check_model(examples, MODEL)
    with pytest.raises(UsageError, match="max_position_embeddings"):
        check_model(examples, replace(MODEL, max_position_embeddings=SLOTS - 1))
