"""Datasets are opened with what is known of them, or refused with their name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packing.errors import InputError, RecordError, UsageError
from packing.example import encode_example
from packing.in_memory import MemoryStorage
from packing.tfrecord import encode_record
from tests.training.batches import Dataset
from tests.training.packs import GROUPS, MODEL, SEQUENCES, SLOTS, Example, raw_sequences, shard_bytes
from training.examples import check_model, open_examples
from training.shards import Cache

pytestmark = pytest.mark.slow

NO_SLOTS = {"input_ids": np.ones(3, np.int64), "masked_lm_ids": np.zeros(0, np.int64)}


def test_opening_a_manifest_fetches_no_shard(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    storage.requests.clear()
    open_examples(storage, dataset[0], cache)
    assert storage.requests == [("read", dataset[0])]


def test_raw_shards_are_read_once_whatever_the_cache_evicts(
    storage: MemoryStorage, dataset: Dataset, tmp_path: Path
) -> None:
    def reads() -> Counter[str]:
        return Counter(uri for kind, uri in storage.requests if kind == "read")

    first = open_examples(storage, dataset[1], Cache(tmp_path))
    assert set(reads().values()) == {1}
    assert reads().total() == len(first.shards) == 2
    for path in tmp_path.glob("*.tfrecord"):
        path.unlink()
    storage.requests.clear()
    again = open_examples(storage, dataset[1], Cache(tmp_path))
    assert again.count == first.count
    assert reads().total() == 1, "the first record tells the features"
    assert [shard.lengths for shard in again.shards] == [None, None]
    measured = open_examples(storage, dataset[1], Cache(tmp_path), lengths=True)
    lengths = [shard.lengths.tolist() for shard in measured.shards if shard.lengths is not None]
    assert list(chain(*lengths)) == list(chain(*GROUPS))


def test_changed_raw_shards_are_read_again(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    assert open_examples(storage, dataset[1], cache).count == SEQUENCES
    storage.objects["/data/raw/part-0"] = shard_bytes(raw_sequences([9]))
    assert open_examples(storage, dataset[1], cache).count == 13


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (shard_bytes(raw_sequences([9]))[:-1], "cut off"),
        (b"no record at all, but some text", "not a TFRecord"),
    ],
)
def test_damaged_raw_shards_are_named(storage: MemoryStorage, cache: Cache, content: bytes, message: str) -> None:
    storage.objects["/data/raw/part-0"] = content
    with pytest.raises(RecordError, match=f"/data/raw/part-0: record 0 at offset 0.*{message}"):
        open_examples(storage, "/data/raw", cache)


@pytest.mark.parametrize(
    "content", [b"", encode_record(b"text"), encode_record(b""), encode_record(encode_example(NO_SLOTS))]
)
def test_raw_data_without_examples_is_refused(storage: MemoryStorage, cache: Cache, content: bytes) -> None:
    storage.objects["/data/raw/part-0"] = content
    with pytest.raises(InputError, match="/data/raw"):
        open_examples(storage, "/data/raw", cache)


def damaged(**features: Any) -> Example:
    return {**raw_sequences([9])[0], **features}


@pytest.mark.parametrize(
    "wrong",
    [
        damaged(input_mask=np.zeros(SLOTS, np.int64)),
        damaged(input_mask=np.arange(SLOTS) % 2),
        damaged(input_mask=2 * (np.arange(SLOTS) < 9)),
        damaged(input_mask=np.ones(SLOTS - 1, np.int64)),
    ],
)
def test_a_sequence_without_a_length_is_refused_where_lengths_are_wanted(
    storage: MemoryStorage, cache: Cache, wrong: Example
) -> None:
    storage.objects["/data/raw/part-0"] = shard_bytes([*raw_sequences([5, 6]), wrong])
    with pytest.raises(InputError, match=r"/data/raw/part-0: .*(2.*input_mask|input_mask.*2)"):
        open_examples(storage, "/data/raw", cache, lengths=True)


def test_a_cache_that_the_windows_do_not_fit_in_is_refused(
    storage: MemoryStorage, dataset: Dataset, tmp_path: Path
) -> None:
    for uri in dataset:
        with pytest.raises(UsageError, match="allow at least"):
            open_examples(storage, uri, Cache(tmp_path, 1000))


def test_a_model_that_the_data_does_not_fit_is_refused(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[0], cache)
    check_model(examples, MODEL)
    for name, value in (("max_position_embeddings", SLOTS - 1), ("type_vocab_size", 1)):
        with pytest.raises(UsageError, match=name):
            check_model(examples, replace(MODEL, **{name: value}))
