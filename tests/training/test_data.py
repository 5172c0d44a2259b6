"""Batches hold the examples of their steps, in the packed layout, whatever their mode."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packing.errors import UsageError
from packing.in_memory import MemoryStorage
from packing.manifest import read_manifest, write_manifest
from tests.training.batches import Dataset, ids, of_mode, training
from tests.training.packs import (
    GROUPS,
    MODEL,
    PREDICTIONS,
    SEQUENCES,
    SLOTS,
    group_sequences,
    pack,
    raw_sequences,
    shard_bytes,
    stack,
)
from training.data import BUCKET_WIDTH, evaluation_batches, shards_read, training_batches
from training.examples import open_examples
from training.layout import padded_layout
from training.shards import Cache

pytestmark = pytest.mark.slow

FIRST_SHARD = "/data/packed/part-00000.tfrecord"

each_mode = pytest.mark.parametrize("mode", ["packed", "padded", "bucketed"])
on_one_folder = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_a_manifest_gives_the_packs_it_lists(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[0], cache)
    expected = stack([pack(group, 3) for group in group_sequences(GROUPS)])
    (batch,) = evaluation_batches(examples, MODEL, batch_size=len(GROUPS))
    assert examples.count == len(GROUPS)
    assert examples.packing_factor == SEQUENCES / len(GROUPS)
    assert set(batch) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(batch[name].numpy(), values, err_msg=name)
        assert batch[name].dtype.as_numpy_dtype == values.dtype


def test_raw_shards_give_packs_of_one(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[1], cache)
    expected = stack([pack([sequence], 1) for group in group_sequences(GROUPS) for sequence in group])
    (batch,) = evaluation_batches(examples, MODEL, batch_size=SEQUENCES)
    assert examples.count == examples.sequences == SEQUENCES
    assert examples.recipe_id is None
    assert set(batch) == set(expected)
    for name, values in expected.items():
        if name.startswith("masked_lm"):
            assert not values[:, PREDICTIONS:].any()
            values = values[:, :PREDICTIONS]  # noqa: PLW2901
        np.testing.assert_array_equal(batch[name].numpy(), values, err_msg=name)


def test_padded_layout_keeps_the_mask_of_one_sequence() -> None:
    layout = padded_layout(stack(raw_sequences([5])))
    np.testing.assert_array_equal(layout["positions"].numpy()[0], [0, 1, 2, 3, 4] + [0] * (SLOTS - 5))


@each_mode
@pytest.mark.parametrize("limit", [None, 15000])
@on_one_folder
@given(seed=st.integers(0, 2**31 - 1), batch_size=st.integers(1, 20), start=st.integers(0, 12))
def test_any_step_continues_the_same_order(
    storage: MemoryStorage,
    dataset: Dataset,
    tmp_path: Path,
    mode: str,
    limit: int | None,
    seed: int,
    batch_size: int,
    start: int,
) -> None:
    examples = of_mode(storage, dataset, mode, Cache(tmp_path, limit))
    options = {"mode": mode, "seed": seed}
    whole = training(examples, batch_size, 16, **options)
    rest = training(examples, batch_size, 16 - start, start=start, **options)
    assert [ids([batch]) for batch in whole[start:]] == [ids([batch]) for batch in rest]
    assert all(len(batch["input_ids"]) == batch_size for batch in whole)
    epoch = ids(whole)[: examples.count]
    assert mode == "bucketed" or len(epoch) == min(examples.count, 16 * batch_size)
    assert max(Counter(epoch).values()) == 1


@each_mode
def test_replicas_share_the_same_steps(storage: MemoryStorage, dataset: Dataset, cache: Cache, mode: str) -> None:
    examples = of_mode(storage, dataset, mode, cache)
    whole = training(examples, 12, 4, mode=mode)
    for replicas, workers in ((2, 1), (2, 2), (4, 2), (3, 3)):
        per_worker = replicas // workers
        found = [
            training(examples, 12, 4, mode=mode, replicas=replicas, shares=range(first, first + per_worker))
            for first in range(0, replicas, per_worker)
        ]
        for step in range(4):
            slices = [worker[step * per_worker + own] for worker in found for own in range(per_worker)]
            assert {len(batch["input_ids"]) for batch in slices} == {12 // replicas}
            assert ids(slices) == ids([whole[step]])


def test_a_step_that_the_replicas_do_not_divide_is_refused(
    storage: MemoryStorage, dataset: Dataset, cache: Cache
) -> None:
    with pytest.raises(UsageError, match="3 replicas divide, got 10"):
        training(open_examples(storage, dataset[0], cache), 10, 1, replicas=3)


def test_buckets_are_cut_to_their_width(storage: MemoryStorage, cache: Cache) -> None:
    slots = 2 * BUCKET_WIDTH + 10
    lengths = [1, 5, 64, 65, 128, 129, 138, 100, 30]
    storage.write("/data/raw/part-0", shard_bytes(raw_sequences(lengths, slots=slots)))
    examples = open_examples(storage, "/data/raw", cache, lengths=True)
    data = training_batches(
        [examples], MODEL, mode="bucketed", batch_size=2, seed=0, start=0, shares=[0, 1], replicas=2
    )
    expected = {tuple(s["input_ids"][s["input_ids"] > 0].tolist()) for s in raw_sequences(lengths, slots=slots)}
    batches = list(data.take(2 * 5))
    assert len(ids(batches)) == len(lengths)
    assert set(ids(batches)) == expected
    widths = Counter(len(batch["input_ids"][0]) for batch in batches)
    assert widths == {BUCKET_WIDTH: 4, 2 * BUCKET_WIDTH: 4, slots: 2}
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        for name in ("input_ids", "input_mask", "segment_ids", "positions"):
            assert first[name].shape == second[name].shape == first["input_ids"].shape
        longest = max(map(len, ids([first, second])))
        width = first["input_ids"].shape[1]
        assert width == min(-(-longest // BUCKET_WIDTH) * BUCKET_WIDTH, slots)


@each_mode
def test_the_shapes_are_known(storage: MemoryStorage, dataset: Dataset, cache: Cache, mode: str) -> None:
    examples = of_mode(storage, dataset, mode, cache)
    spec = training_batches(
        [examples], MODEL, mode=mode, batch_size=6, seed=0, start=0, shares=[1], replicas=2
    ).element_spec
    cut = {"input_ids", "input_mask", "segment_ids", "positions"}
    for name, tensor in spec.items():
        assert tensor.shape[0] == 3
        assert (tensor.shape[1] is None) == (mode == "bucketed" and name in cut), name


def test_empty_packs_weigh_nothing(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    for uri in dataset:
        *_, batch = evaluation_batches(open_examples(storage, uri, cache), MODEL, batch_size=7)
        real = np.flatnonzero(batch["input_mask"].numpy()[:, 0])
        assert 0 < len(real) < 7
        for name, values in batch.items():
            assert not values.numpy()[len(real) :].any(), name
        assert batch["next_sentence_weights"].numpy()[real].any(axis=1).all()


def test_a_replica_without_examples_gets_empty_packs(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    for uri in dataset:
        examples = open_examples(storage, uri, cache)
        first, last = (
            list(evaluation_batches(examples, MODEL, batch_size=4, limit=3, shares=[replica], replicas=2))
            for replica in range(2)
        )
        assert [len(ids(batches)) for batches in (first, last)] == [3, 0]
        assert {name: x.shape for name, x in first[0].items()} == {name: x.shape for name, x in last[0].items()}


def test_a_limited_evaluation_fetches_no_more_than_it_reads(
    storage: MemoryStorage, dataset: Dataset, cache: Cache
) -> None:
    examples = open_examples(storage, dataset[0], cache)
    everything = ids(evaluation_batches(examples, MODEL, batch_size=3))
    storage.requests.clear()
    limited = open_examples(storage, dataset[0], Cache(cache.folder / "other"))
    assert ids(evaluation_batches(limited, MODEL, batch_size=3, limit=4)) == everything[:4]
    assert [uri for _, uri in storage.requests] == [dataset[0], FIRST_SHARD]


def test_epochs_take_their_manifests_in_turn(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    """As when a recipe is solved again with another seed for each epoch."""
    manifest = read_manifest(storage, dataset[0])
    groups = group_sequences(GROUPS)
    sequences = [sequence for group in groups for sequence in group]
    other = [sequences[:2], sequences[2:5], *([one] for one in sequences[5:])]
    content = shard_bytes([pack(group, 3) for group in other])
    shard = replace(
        manifest.shards[0],
        uri="/data/other/part-00000.tfrecord",
        bytes=len(content),
        packs=len(other),
        sequences=SEQUENCES,
        sha256=sha256(content).hexdigest(),
    )
    storage.write(shard.uri, content)
    write_manifest(storage, "/data/manifests/other.json", replace(manifest, recipe_id="other", shards=(shard,)))
    data = [open_examples(storage, uri, cache) for uri in (dataset[0], "/data/manifests/other.json")]
    counts = [examples.count for examples in data]
    found = ids(training(data, 1, sum(counts) + counts[0]))
    for start, packs in ((0, groups), (counts[0], other), (sum(counts), groups)):
        expected = Counter(ids([{"input_ids": tf.constant(pack(g, 3)["input_ids"][None])}])[0] for g in packs)
        assert Counter(found[start : start + len(packs)]) == expected
    where = [shards_read(data, mode="packed", batch_size=1, seed=0, step=step) for step in range(sum(counts))]
    assert [uris == [shard.uri] for uris in where] == [False] * counts[0] + [True] * counts[1]


def test_datasets_that_do_not_go_together_are_refused(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    packed, raw = (open_examples(storage, uri, cache) for uri in dataset)
    for data, mode, message in [
        ([packed, replace(packed, uri="/other", sequences=1)], "packed", "/other: .*17 sequences of /data/manifests"),
        ([packed, replace(raw, uri="/other")], "packed", "/other: .* of /data/manifests"),
        ([packed], "padded", "mode padded cannot read packed data"),
        ([raw], "packed", "mode packed cannot read raw data"),
        ([raw], "bucketed", "/data/raw: mode bucketed needs the sequences' lengths"),
    ]:
        with pytest.raises(UsageError, match=message):
            training(data, 2, 1, mode=mode)


def test_shards_of_a_step_are_named(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[0], cache)
    in_shard = {
        shard.uri: {tuple(record["input_ids"][record["input_ids"] > 0].tolist()) for record in records}
        for shard, records in zip(
            examples.shards, np.array_split([pack(g, 3) for g in group_sequences(GROUPS)], 2), strict=True
        )
    }
    batches = training(examples, 2, 12)
    expected = [[uri for uri, records in sorted(in_shard.items()) if records & set(ids([batch]))] for batch in batches]
    assert {len(uris) for uris in expected} == {1, 2}
    options = {"mode": "packed", "batch_size": 2, "seed": 0}
    assert [shards_read([examples], step=step, **options) for step in range(12)] == expected
