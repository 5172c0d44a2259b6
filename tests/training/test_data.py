from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packing.errors import InputError, RecordError, StorageError, UsageError, VerificationError
from packing.manifest import read_manifest, write_manifest
from packing.ports import MemoryStorage
from packing.tfrecord import encode_record
from tests.training.hanging import HangingStorage
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
)
from training.data import (
    BUCKET_WIDTH,
    batch_errors,
    evaluation_batches,
    padded_layout,
    shards_read,
    training_batches,
)
from training.examples import Examples, check_model, open_examples
from training.shards import Cache

pytestmark = pytest.mark.slow

Dataset = tuple[str, str]
Ids = tuple[int, ...]
FIRST_SHARD = "/data/packed/part-00000.tfrecord"
SEQUENCES = sum(map(len, GROUPS))

each_mode = pytest.mark.parametrize("mode", ["packed", "padded", "bucketed"])
on_one_folder = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def ids(batches: Iterable[Any]) -> list[Ids]:
    """The token ids of the examples in these batches, without the empty ones and the padding."""
    rows = [row[row > 0] for batch in batches for row in batch["input_ids"].numpy()]
    return [tuple(row.tolist()) for row in rows if len(row)]


def training(data: Examples | list[Examples], batch_size: int, steps: int, **options: Any) -> list[Any]:
    """The batches of `steps` steps of one replica."""
    data = data if isinstance(data, list) else [data]
    mode = "packed" if data[0].packed else "padded"
    defaults = {"mode": mode, "seed": 0, "start": 0, "shares": [0], "replicas": 1}
    batches = training_batches(data, MODEL, batch_size=batch_size, **{**defaults, **options})
    return list(batches.take(steps * len({**defaults, **options}["shares"])))


def of_mode(storage: MemoryStorage, dataset: Dataset, mode: str, cache: Cache) -> Examples:
    return open_examples(storage, dataset[mode != "packed"], cache, lengths=mode == "bucketed")


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


@each_mode
@pytest.mark.parametrize("limit", [None, 7500])
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


def test_empty_examples_weigh_nothing(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    for uri in dataset:
        *_, batch = evaluation_batches(open_examples(storage, uri, cache), MODEL, batch_size=7)
        real = np.flatnonzero(batch["input_mask"].numpy()[:, 0])
        assert 0 < len(real) < 7
        for name, values in batch.items():
            assert not values.numpy()[len(real) :].any(), name
        assert batch["next_sentence_weights"].numpy()[real].any(axis=1).all()


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


def test_what_ends_the_reading_is_raised_as_it_was(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[0], cache)
    content = bytearray(storage.objects[FIRST_SHARD])
    content[100] ^= 1
    storage.objects[FIRST_SHARD] = bytes(content)
    with pytest.raises(VerificationError, match=f"{FIRST_SHARD}: expected .* SHA-256"), batch_errors([examples]):
        training(examples, 2, 1)
    del storage.objects[FIRST_SHARD]
    with pytest.raises(VerificationError, match=f"{FIRST_SHARD}: the manifest lists"), batch_errors([examples]):
        ids(evaluation_batches(examples, MODEL, batch_size=2))


def test_a_raw_shard_that_was_replaced_after_it_was_counted_is_named(
    storage: MemoryStorage, dataset: Dataset, cache: Cache
) -> None:
    examples = open_examples(storage, dataset[1], cache)
    for path in cache.folder.glob("*.tfrecord"):
        path.unlink()
    storage.objects["/data/raw/part-1"] = storage.objects["/data/raw/part-1"][::-1]
    with pytest.raises(InputError, match="/data/raw/part-1: expected ETag"), batch_errors([examples]):
        training(examples, 2, 1)


def test_batches_end_when_their_data_is_closed_though_the_store_hangs(
    dataset: Dataset, storage: MemoryStorage, cache: Cache
) -> None:
    hanging = HangingStorage(storage)
    examples = open_examples(hanging, dataset[0], cache)
    batches = iter(
        training_batches([examples], MODEL, mode="packed", batch_size=2, seed=0, start=0, shares=[0], replicas=1)
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: next(batches, None))
        assert hanging.asked.wait(30)
        assert not waiting.done()
        examples.close()
        assert waiting.result(30) is None
    hanging.answer.set()


def test_a_process_ends_at_once_though_the_store_hangs(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.training.hanging", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (42, "waiting"), done.stderr


def test_other_errors_pass(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[0], cache)
    with pytest.raises(StorageError, match="another"), batch_errors([examples]):
        raise StorageError("another")
    with pytest.raises(tf.errors.CancelledError), batch_errors([examples]):
        raise tf.errors.CancelledError(None, None, "cancelled")


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


@pytest.mark.parametrize("content", [b"", encode_record(b"text"), encode_record(b"")])
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


def test_examples_of_another_form_are_refused(storage: MemoryStorage, cache: Cache) -> None:
    storage.objects["/data/raw/part-0"] = shard_bytes([*raw_sequences([5]), *raw_sequences([5], slots=SLOTS + 1)])
    examples = open_examples(storage, "/data/raw", cache)
    with (
        pytest.raises(InputError, match=r"^/data/raw: Key: segment_ids, Index: 1\. .* 33 but "),
        batch_errors([examples]),
    ):
        ids(evaluation_batches(examples, MODEL, batch_size=2))


def test_token_ids_beyond_the_vocabulary_are_refused(storage: MemoryStorage, dataset: Dataset, cache: Cache) -> None:
    examples = open_examples(storage, dataset[0], cache)
    small = replace(MODEL, vocab_size=VOCABULARY - 10)
    with (
        pytest.raises(InputError, match=f"{dataset[0]}: a token id is not .* vocab_size 89; "),
        batch_errors([examples]),
    ):
        ids(evaluation_batches(examples, small, batch_size=2))


def test_a_cache_that_two_shards_do_not_fit_in_is_refused(
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
