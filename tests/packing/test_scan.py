from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from packing import scan
from packing.errors import InputError, ObjectChangedError, RecordError
from packing.in_memory import MemoryStorage
from packing.listing import list_raw_shards
from packing.scan import load_index, read_summary, scan_shard, spool_name
from packing.sequences import SequenceBuffer
from packing.spool import Spool
from packing.tfrecord import encode_record
from packing.types import Rejection, ShardSummary
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


def scan_of(storage: MemoryStorage, name: str = "a", **options: object) -> ShardSummary:
    (shard,) = [shard for shard in list_raw_shards(storage, "/raw") if shard.name == name]
    return scan_shard(storage, shard, destination="/out", **options)  # type: ignore[arg-type]  # of several types


@pytest.mark.parametrize("compression", ["", "gzip", "zlib"])
def test_an_index_holds_a_row_for_each_sequence(compression: str) -> None:
    storage = store_with({"a": raw_shard(SIZES, compression=compression)})
    summary = scan_of(storage)
    index = load_index(storage, summary, 0, destination="/out")
    assert index.lengths.tolist() == [length for length, _ in SIZES]
    assert index.masked.tolist() == [masked for _, masked in SIZES]
    (segment,) = summary.segments
    assert segment.lengths == ((5, 1, 1), (20, 2, 3), (64, 1, 10))
    assert (segment.records, segment.start, segment.stop) == (4, 0, len(raw_shard(SIZES)))
    assert (index.offsets[0], len(index.offsets)) == (0, 4)
    assert (np.diff(index.offsets) > 0).all()
    assert (summary.sequences, summary.tokens) == (4, 109)


def test_a_large_shard_has_segments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = SIZES * 20
    whole = scan_of(store_with({"a": raw_shard(sizes)}))
    monkeypatch.setattr(scan, "SEGMENT_BYTES", 4000)
    storage = store_with({"a": raw_shard(sizes)})
    spool = Spool(str(tmp_path), 10**6)
    summary = scan_of(storage, spool=spool)
    assert len(summary.segments) > 5
    assert [segment.number for segment in summary.segments] == list(range(len(summary.segments)))
    for before, after in zip(summary.segments, summary.segments[1:], strict=False):
        assert (before.stop, before.stop_record) == (after.start, after.first_record)
    (segment,) = whole.segments
    assert (summary.segments[-1].stop, summary.records) == (segment.stop, segment.records)
    assert summary.compact_bytes == segment.compact_bytes
    buffer = SequenceBuffer()
    for own in summary.segments:
        spool.load(spool_name(summary.shard, own.number), buffer)
        index = load_index(storage, summary, own.number, destination="/out")
        assert np.array_equal(buffer.sequences().offsets[-own.sequences :], index.offsets)
    assert buffer.sequences().lengths.tolist() == [length for length, _ in sizes]
    assert len(buffer.sequences().content) == summary.compact_bytes


def test_a_scanned_shard_is_not_read_again_until_it_changes() -> None:
    storage = store_with({"a": raw_shard(SIZES)})
    (shard,) = list_raw_shards(storage, "/raw")
    first = scan_of(storage)
    storage.requests.clear()
    assert scan_of(storage) == first
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


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_no_thread_is_left_by_a_scan_that_failed_while_its_error_is_kept(compression: str) -> None:
    data = encode_record(b"no example") + raw_shard([(9, 2)] * 20)
    storage = store_with({"a": gzip.compress(data) if compression else data})
    shard = list_raw_shards(storage, "/raw")[0]
    with pytest.raises(RecordError) as kept:
        scan_shard(storage, shard, destination="/out")
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("read")] == []
    assert kept.traceback


def test_bad_records_are_left_out_as_far_as_allowed() -> None:
    good, bad = encode_record(raw_example(20, 3)), encode_record(b"\x0a\x00")
    storage = store_with({"a": bad + good + bad + good})
    with pytest.raises(RecordError) as caught:
        scan_of(storage, max_rejected=1)
    assert caught.value.record == 2
    summary = scan_of(storage, max_rejected=2)
    assert summary.rejected == (
        Rejection("a", 0, 0, "feature input_ids", "features none"),
        Rejection("a", 2, len(good) + len(bad), "feature input_ids", "features none"),
    )
    assert (summary.records, summary.sequences) == (4, 2)
    assert scan_of(storage) == summary


@pytest.mark.parametrize("damage", ["lost", "altered"])
def test_rows_that_are_damaged_are_made_again(damage: str) -> None:
    storage = store_with({"a": raw_shard(SIZES)})
    summary = scan_of(storage)
    (uri,) = [uri for uri in storage.objects if uri.endswith(".npz")]
    if damage == "lost":
        del storage.objects[uri]
    else:
        storage.objects[uri] = b"PK" + bytes(100)
    assert load_index(storage, summary, 0, destination="/out").lengths.tolist() == [20, 5, 64, 20]


def test_a_summary_with_one_figure_altered_is_not_believed() -> None:
    storage = store_with({"a": raw_shard(SIZES)})
    summary = scan_of(storage)
    (uri,) = [uri for uri in storage.objects if uri.endswith(".json")]
    document = json.loads(storage.objects[uri])
    document["document"]["segments"][0]["lengths"][0][1] += 1
    storage.objects[uri] = json.dumps(document).encode()
    storage.requests.clear()
    assert scan_of(storage) == summary
    assert ("read", "/raw/a") in storage.requests


def test_an_empty_object_is_a_shard_without_sequences() -> None:
    storage: MemoryStorage = store_with({"a": b""})
    (shard,) = list_raw_shards(storage, "/raw")
    assert scan_shard(storage, shard, destination="/out").sequences == 0
