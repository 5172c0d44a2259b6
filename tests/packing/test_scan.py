from __future__ import annotations

import numpy as np
import pytest

from packing.errors import InputError, ObjectChangedError, RecordError
from packing.ports import MemoryStorage
from packing.scan import check_limits, list_raw_shards, load_index, read_summary, scan_shard
from packing.tfrecord import encode_record
from packing.types import Parameters
from tests.builders import raw_example, raw_shard, store_with

SIZES = [(20, 3), (5, 1), (64, 10), (20, 2)]


def test_the_listing_leaves_out_markers_and_keeps_folders() -> None:
    names = ["b.tfrecord", "a.gz", "_SUCCESS", ".hidden", "deep/c.tfrecord", "_temporary/d", "deep/.e", "folder/"]
    storage = store_with(dict.fromkeys(names, b""))
    assert [shard.name for shard in list_raw_shards(storage, "/raw")] == ["a.gz", "b.tfrecord", "deep/c.tfrecord"]


@pytest.mark.parametrize("names", [[], ["_SUCCESS"]])
def test_an_empty_prefix_is_bad_input(names: list[str]) -> None:
    with pytest.raises(InputError, match="/raw: expected raw TFRecord shards, found none"):
        list_raw_shards(store_with(dict.fromkeys(names, b"")), "/raw")


@pytest.mark.parametrize("compression", ["", "gzip", "zlib"])
def test_an_index_holds_a_row_for_each_record(compression: str) -> None:
    storage = store_with({"a": raw_shard(SIZES, compression=compression)})
    (shard,) = list_raw_shards(storage, "/raw")
    summary = scan_shard(storage, shard, destination="/out")
    index = load_index(storage, shard, destination="/out")
    assert index.lengths.tolist() == [length for length, _ in SIZES]
    assert index.masked.tolist() == [masked for _, masked in SIZES]
    assert np.array_equal(index.offsets[1:], np.cumsum(index.sizes + 16)[:-1])
    assert summary.lengths == ((5, 1, 1), (20, 2, 3), (64, 1, 10))
    assert (summary.longest.record, summary.longest.offset) == (2, int(index.offsets[2]))
    assert summary.sequences == 4


def test_a_scanned_shard_is_not_read_again_until_it_changes() -> None:
    storage = store_with({"a": raw_shard(SIZES)})
    (shard,) = list_raw_shards(storage, "/raw")
    first = scan_shard(storage, shard, destination="/out")
    storage.requests.clear()
    assert scan_shard(storage, shard, destination="/out") == first
    assert ("read", "/raw/a") not in storage.requests
    storage.write("/raw/a", raw_shard(SIZES[:2]))
    (shard,) = list_raw_shards(storage, "/raw")
    assert read_summary(storage, shard, destination="/out") is None
    assert scan_shard(storage, shard, destination="/out").sequences == 2


def test_a_shard_replaced_after_the_listing_is_an_error_that_names_it() -> None:
    storage = store_with({"a": raw_shard(SIZES)})
    (shard,) = list_raw_shards(storage, "/raw")
    storage.write("/raw/a", raw_shard(SIZES[:2]))
    with pytest.raises(ObjectChangedError, match="/raw/a"):
        scan_shard(storage, shard, destination="/out")


def test_a_bad_record_is_named_with_its_offset_and_leaves_no_index() -> None:
    good = encode_record(raw_example(20, 3))
    bad = encode_record(b"\x0a\x00")
    storage = store_with({"a": good + good + bad + good})
    (shard,) = list_raw_shards(storage, "/raw")
    with pytest.raises(RecordError) as caught:
        scan_shard(storage, shard, destination="/out")
    assert (caught.value.shard, caught.value.record, caught.value.offset) == ("/raw/a", 2, 2 * len(good))
    assert "feature input_ids" in str(caught.value)
    assert not [uri for uri in storage.objects if uri.startswith("/out")]


@pytest.mark.parametrize(
    ("limits", "record", "unit"),
    [
        ({"max_sequence_length": 63}, 2, "at most 63 tokens, found 64"),
        ({"max_sequence_length": 64, "max_predictions_per_sequence": 9}, 2, "at most 9 masked tokens, found 10"),
    ],
)
def test_a_sequence_over_a_limit_is_named(limits: dict[str, int], record: int, unit: str) -> None:
    storage = store_with({"a": raw_shard(SIZES)})
    (shard,) = list_raw_shards(storage, "/raw")
    summary = scan_shard(storage, shard, destination="/out")
    check_limits(summary, Parameters(max_sequence_length=64, max_predictions_per_sequence=10))
    with pytest.raises(RecordError, match=unit) as caught:
        check_limits(summary, Parameters(**limits))
    assert caught.value.record == record


def test_an_empty_object_is_a_shard_without_sequences() -> None:
    storage: MemoryStorage = store_with({"a": b""})
    (shard,) = list_raw_shards(storage, "/raw")
    assert scan_shard(storage, shard, destination="/out").sequences == 0
