"""A dry run: what it predicts against what the refresh then does, what it reads, and that it stores nothing."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing import sample
from packing.adapters import open_storage
from packing.errors import InputError, RecordError, UsageError
from packing.estimate import scale
from packing.in_memory import MemoryStorage
from packing.listing import list_raw_shards
from packing.overlay import Overlay
from packing.parallel import serial
from packing.pipeline import Refresh, refresh
from packing.ports import Buffer, ObjectInfo, byte_view
from packing.predict import FIGURES, SAMPLE_BYTES, Prediction, predict, prediction_rows
from packing.sample import take_sample
from packing.scan import scan_shard
from packing.tfrecord import encode_record
from packing.types import Histogram, Parameters
from tests.builders import random_sizes, raw_shard, stages_of, store_with

WIKIPEDIA = Path(__file__).resolve().parents[3] / "shared" / "data" / "wikipedia"
SMALL = Parameters(max_sequence_length=64, max_predictions_per_sequence=10, partition_bytes=20_000)


class CountingStorage(MemoryStorage):
    """Counts the bytes that are read of each object, and takes no writes once it is `sealed`."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__()
        self.objects = dict(objects)
        self.bytes_read: Counter[str] = Counter()
        self.sealed = False

    def read(self, uri: str, *, start: int = 0, size: int | None = None, etag: str | None = None) -> bytes:
        content = super().read(uri, start=start, size=size, etag=etag)
        self.bytes_read[uri] += len(content)
        return content

    def write(self, uri: str, data: Buffer) -> ObjectInfo:
        assert not self.sealed, f"{uri}: {len(byte_view(data))} bytes written by a dry run"
        return super().write(uri, data)

    def raw_bytes_read(self) -> int:
        return sum(size for uri, size in self.bytes_read.items() if uri.startswith("/raw/"))


def some_shards(count: int = 6, sequences: int = 30, compression: str = "") -> dict[str, bytes]:
    return {
        f"part-{i}": raw_shard(random_sizes(sequences, seed=i), seed=i, compression=compression) for i in range(count)
    }


def foresee(
    storage: CountingStorage,
    parameters: Parameters = SMALL,
    *,
    sample_bytes: int = SAMPLE_BYTES,
    max_rejected: int = 0,
    price_per_hour: float | None = None,
    time_limit: float | None = None,
) -> Prediction:
    """A dry run that is seen to change nothing and to read no more than it may."""
    before = dict(storage.objects)
    storage.bytes_read.clear()
    storage.sealed = True
    try:
        prediction = predict(
            storage,
            serial(storage),
            "/raw",
            "/out",
            parameters,
            workers=2,
            solvers=2,
            max_rejected=max_rejected,
            price_per_hour=price_per_hour,
            time_limit=time_limit,
            sample_bytes=sample_bytes,
        )
    finally:
        storage.sealed = False
        assert storage.objects == before
        assert storage.raw_bytes_read() <= sample_bytes
    assert prediction.bytes_read == storage.raw_bytes_read()
    assert prediction.seconds > 0
    assert all(prediction_rows(prediction))
    return prediction


def pack(storage: MemoryStorage, parameters: Parameters = SMALL, max_rejected: int = 0) -> Refresh:
    return refresh(storage, stages_of(serial(storage)), "/raw", "/out", parameters, max_rejected=max_rejected)


def counting(shards: dict[str, bytes]) -> CountingStorage:
    return CountingStorage(store_with(shards).objects)


def assert_came_true(prediction: Prediction, outcome: Refresh) -> None:
    assert prediction.exact
    for name in FIGURES:
        assert getattr(prediction, name) == outcome.recipe.statistics[name]
    assert prediction.output_bytes == outcome.manifest.bytes
    assert (prediction.shards, prediction.sampled_shards) == (len(outcome.recipe.shards),) * 2
    assert prediction.sampled_bytes == prediction.bytes == sum(shard.size for shard in outcome.recipe.shards)


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(1, 64), max_size=25), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sampled_from(["optimal", "spfhp", "lpfhp"]),
    st.integers(0, 3),
    st.sampled_from(["", "gzip", "zlib"]),
    st.sampled_from([2_000, 10**9]),
)
def test_what_is_predicted_from_all_records_comes_true(
    shards: list[list[int]], k: int, solver: str, seed: int, compression: str, partition_bytes: int
) -> None:
    if not any(shards):
        return
    storage = counting(
        {
            f"s{i}": raw_shard([(n, min(10, n // 4)) for n in lengths], seed=i, compression=compression)
            for i, lengths in enumerate(shards)
        }
    )
    parameters = Parameters(64, k, 16, solver, seed, partition_bytes)
    prediction = foresee(storage, parameters)
    assert prediction.bytes_read == prediction.bytes
    assert_came_true(prediction, pack(storage, parameters))


def test_shards_with_an_index_are_known_and_partitions_that_exist_keep_their_bytes() -> None:
    storage = counting(some_shards())
    for shard in list_raw_shards(storage, "/raw"):
        scan_shard(storage, shard, destination="/out")
    scanned = foresee(storage, sample_bytes=20_000)
    assert scanned.exact
    assert 0 < scanned.bytes_read <= 20_000 < scanned.bytes
    assert scanned.output_bytes == pytest.approx(pack(storage).manifest.bytes, rel=0.02)

    storage.write("/raw/part-7", raw_shard(random_sizes(30, seed=7), seed=7))
    more = foresee(storage)
    assert more.bytes_read == len(storage.objects["/raw/part-7"])
    assert not more.unchanged
    outcome = pack(storage)
    assert 0 < outcome.partitions_written < len(outcome.recipe.partitions)
    assert {name: getattr(more, name) for name in FIGURES} == {
        name: outcome.recipe.statistics[name] for name in FIGURES
    }
    assert more.output_bytes == pytest.approx(outcome.manifest.bytes, rel=0.02)


def test_an_unchanged_dataset_is_told() -> None:
    storage = counting(some_shards())
    assert not foresee(storage).unchanged
    outcome = pack(storage)
    for listing in [uri for uri in storage.objects if "/index/listings/" in uri]:
        for known in (True, False):
            if not known:
                del storage.objects[listing]
            again = foresee(storage, sample_bytes=10_000 if not known else 0)
            assert again.unchanged
            assert_came_true(again, outcome)


@pytest.mark.parametrize("compression", ["", "gzip", "zlib"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_stands_for_the_whole(compression: str, seed: int) -> None:
    storage = counting(some_shards(8, sequences=500, compression=compression))
    prediction = foresee(storage, replace(SMALL, seed=seed), sample_bytes=sum(map(len, storage.objects.values())) // 4)
    assert not prediction.exact
    assert prediction.sampled_bytes < prediction.bytes / 3
    assert prediction.sampled_shards == 8
    real = pack(storage, replace(SMALL, seed=seed))
    # Of a compressed stream the beginning is the part that is compressed least.
    few = 0.08 if compression else 0.03
    assert prediction.sequences == pytest.approx(4000, rel=few)
    assert prediction.packs == pytest.approx(real.manifest.packs, rel=few)
    assert prediction.output_bytes == pytest.approx(real.manifest.bytes, rel=few)
    assert prediction.packing_factor == pytest.approx(real.recipe.statistics["packing_factor"], rel=0.03)


def test_the_seed_decides_which_shards_are_looked_at() -> None:
    shards = {f"part-{i:02}": raw_shard([(9, 1)] * 20, seed=i) for i in range(60)}
    storage = counting(shards)
    listed = list_raw_shards(storage, "/raw")
    limit = len(shards["part-00"]) * 10
    taken = [
        tuple(shard.name for shard in take_sample(Overlay(storage), order, limit, seed).shards)
        for seed, order in ((0, listed), (0, listed[::-1]), (1, listed))
    ]
    assert taken[0] == taken[1] != taken[2]
    assert len(set(taken[0])) == len(taken[0]) == 32


def test_a_sample_has_all_empty_shards_and_takes_no_record_for_compressed() -> None:
    contents = {f"empty-{i}": b"" for i in range(40)} | {f"full-{i}": raw_shard([(9, 1)] * 20) for i in range(40)}
    storage = counting(contents)
    listed = list_raw_shards(storage, "/raw")
    taken = take_sample(Overlay(storage), listed, len(contents["full-0"]) * 4, seed=0)
    names = [shard.name for shard in taken.shards]
    assert names == sorted(names)
    assert {name for name in contents if name.startswith("empty")} < set(names)
    assert {name for name in names if name not in taken.cut} == {name for name in names if name.startswith("empty")}
    like_zlib = counting({"a": encode_record(bytes(0x178)) * 9})
    with pytest.raises(InputError, match="expected a whole record in its first 11 bytes"):
        take_sample(Overlay(like_zlib), list_raw_shards(like_zlib, "/raw"), 11, seed=0)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.floats(1, 1000))
def test_scaling_keeps_the_shape(counts: list[int], factor: float) -> None:
    scaled = scale(Histogram(tuple(counts)), factor)
    assert scaled.sequences == round(sum(counts) * factor)
    assert np.abs(np.array(scaled.counts) - np.array(counts) * factor).max() <= 1


def test_figures_of_a_search_that_the_time_limit_ended_are_not_exact() -> None:
    storage = counting(some_shards())
    for time_limit, complete in ((None, True), (1e-9, False), (1000.0, True)):
        prediction = foresee(storage, time_limit=time_limit)
        assert prediction.exact == complete
        assert prediction.sampled_bytes == prediction.bytes
        assert ("the time limit ended a search" in dict(prediction_rows(prediction))["based on"]) != complete
    outcome = refresh(storage, stages_of(serial(storage)), "/raw", "/out", SMALL, time_limit=1e-9)
    assert outcome.recipe.statistics["time_limited"]
    assert foresee(storage, time_limit=1e-9).exact  # its answer is kept, so the dataset is unchanged


def test_nothing_is_read_where_nothing_is_left_to_write() -> None:
    """Without the one shard of a partition, or without the manifest, what remains is there already."""
    parameters = replace(SMALL, partition_bytes=1)
    storage = counting(some_shards())
    pack(storage, parameters)
    storage.delete("/raw/part-2")
    prediction = foresee(storage, parameters)
    outcome = pack(storage, parameters)
    assert (prediction.bytes_read, outcome.partitions_written) == (0, 0)
    assert_came_true(prediction, outcome)


@pytest.mark.parametrize("lost", ["/out/index/shards", "/out/shards"])
def test_bytes_are_exact_if_all_that_is_left_to_write_was_read(lost: str) -> None:
    """Whether a part of the packed dataset is kept, as the scan's indexes are lost, or all that is known is read."""
    storage = counting(some_shards() | {"part-0-empty": b""})
    pack(storage)
    storage.write("/raw/part-7", raw_shard(random_sizes(30, seed=7), seed=7))
    gone = [info.uri for info in storage.list(lost)]
    for uri in gone if lost.startswith("/out/index") else gone[:1]:
        storage.delete(uri)
    if not lost.startswith("/out/index"):
        storage.delete("/raw/part-7")
    prediction = foresee(storage)
    assert prediction.bytes_read == prediction.bytes
    outcome = pack(storage)
    assert 0 < outcome.partitions_written < len(outcome.recipe.partitions)
    assert_came_true(prediction, outcome)


def test_of_several_bad_shards_the_one_is_named_that_the_refresh_names() -> None:
    bad = encode_record(b"no example")
    storage = counting({"b": raw_shard([(9, 1)]) + bad})
    pack(storage, max_rejected=1)
    for name in "dacf":
        storage.write(f"/raw/{name}", raw_shard([(9, 1)], seed=ord(name)) + bad)
    for max_rejected in range(5):
        with pytest.raises(RecordError) as refused:
            pack(CountingStorage(storage.objects), max_rejected=max_rejected)
        with pytest.raises(RecordError, match=f"/raw/{'abcdf'[max_rejected]}: record 1") as foreseen:
            foresee(storage, max_rejected=max_rejected)
        assert str(foreseen.value) == str(refused.value)


def test_the_sample_may_have_masked_tokens_that_only_fit_beside_others() -> None:
    """Two such sequences exceed the masked slots of a pack; among the known ones each finds a place."""
    parameters = replace(SMALL, max_sequences_per_pack=2)
    storage = counting({f"known-{i}": raw_shard([(32, 0)] * 20, seed=i) for i in range(2)})
    pack(storage, parameters)
    storage.write("/raw/new", raw_shard([(32, 10)] * 6, seed=9))
    prediction = foresee(storage, parameters)
    outcome = pack(storage, parameters)
    assert {name: getattr(prediction, name) for name in FIGURES} == {
        name: outcome.recipe.statistics[name] for name in FIGURES
    }
    with pytest.raises(InputError, match="masked"):
        pack(counting({"new": storage.objects["/raw/new"]}), parameters)


@pytest.mark.parametrize("empty", [b"", raw_shard([], compression="gzip")])
def test_shards_without_sequences_cost_the_sample_nothing(empty: bytes) -> None:
    """However many they are, and whatever the order in which shards are looked at."""
    full = some_shards(2, sequences=400)
    storage = counting(full | {f"empty-{i:03}": empty for i in range(40)})
    few = foresee(storage, sample_bytes=sum(map(len, full.values())) // 2)
    assert not few.exact
    assert few.sequences == pytest.approx(800, rel=0.1)
    pack(storage)
    storage.write("/raw/one-more", empty)
    one_more = foresee(storage)
    assert one_more.exact
    assert one_more.sequences == 800
    assert one_more.output_bytes == pytest.approx(pack(storage).manifest.bytes, rel=0.02)


def test_cost_is_the_price_of_the_time() -> None:
    prediction = foresee(counting(some_shards()), price_per_hour=36.0)
    assert prediction.cost == pytest.approx(prediction.seconds / 100)
    assert foresee(counting(some_shards())).cost is None


@pytest.mark.parametrize(
    ("shards", "parameters", "error", "message"),
    [
        ({}, SMALL, InputError, "/raw: expected raw TFRecord shards, found none"),
        (
            {"a": b""},
            SMALL,
            InputError,
            "^/raw: expected at least one sequence in 1 raw shards, found none; check the prefix",
        ),
        ({"a": b"no tfrecord at all"}, SMALL, RecordError, "/raw/a: record 0 at offset 0"),
        ({"a": raw_shard([(9, 1)] * 5)[:-3]}, SMALL, RecordError, "/raw/a: record 4"),
        ({"a": raw_shard([(9, 1)] * 5) + encode_record(b"x")}, SMALL, RecordError, "/raw/a: record 5"),
        ({"a": raw_shard([(64, 1)])}, replace(SMALL, max_sequence_length=63), RecordError, "at most 63 tokens"),
    ],
)
def test_bad_input_fails_as_the_refresh_does(
    shards: dict[str, bytes], parameters: Parameters, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as refused:
        pack(counting(shards), parameters)
    with pytest.raises(error, match=message) as foreseen:
        foresee(counting(shards), parameters)
    assert str(foreseen.value) == str(refused.value)


def test_a_bad_record_in_a_sample_is_named_by_its_place_in_the_shard() -> None:
    good = raw_shard([(9, 1)] * 20)
    storage = counting({"a": good + encode_record(b"no example") + good * 5})
    with pytest.raises(RecordError, match="/raw/a: record 20 at offset"):
        foresee(storage, sample_bytes=len(good) * 2)
    assert foresee(storage, sample_bytes=len(good) * 2, max_rejected=1).sequences > 0
    damaged = counting({"a": good[:-5] + b"x" + good[-4:] + good * 5})
    with pytest.raises(RecordError, match="/raw/a: record 19 at offset"):
        foresee(damaged, sample_bytes=len(good) * 2)


def test_what_cannot_work_is_refused_before_anything_is_read() -> None:
    storage = counting(some_shards(1))
    for source, destination, options, message in (
        ("/raw", "/raw/out", {}, "below"),
        ("/raw", "/out", {"max_rejected": -1}, "max_rejected"),
        ("/raw", "/out", {"time_limit": 0.0}, "time_limit"),
    ):
        with pytest.raises(UsageError, match=message):
            predict(storage, serial(storage), source, destination, SMALL, workers=1, solvers=1, **options)  # type: ignore[arg-type] # mixed
    assert not storage.requests
    with pytest.raises(InputError, match="expected a whole record in its first 9 bytes"):
        foresee(storage, sample_bytes=9)


@pytest.mark.slow
@pytest.mark.skipif(not WIKIPEDIA.is_dir(), reason="the Wikipedia sample is not here")
def test_the_wikipedia_sample_is_foreseen_from_a_sixth_of_it(tmp_path: Path) -> None:
    storage = open_storage()
    places = (str(WIKIPEDIA), str(tmp_path / "out"))
    prediction = predict(
        storage, serial(storage), *places, Parameters(), workers=1, solvers=1, sample_bytes=2 * 1024 * 1024
    )
    assert not (tmp_path / "out").exists()
    assert not prediction.exact
    outcome = refresh(storage, stages_of(serial(storage)), *places, Parameters())
    for name in ("sequences", "packs", "packing_efficiency", "packing_factor"):
        assert getattr(prediction, name) == pytest.approx(outcome.recipe.statistics[name], rel=0.03)
    assert prediction.output_bytes == pytest.approx(outcome.manifest.bytes, rel=0.03)


@pytest.mark.parametrize("most", [50_000, 500_000])
def test_a_compressed_sample_counts_only_what_it_took(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """However much of the content is taken, the estimate is of the whole."""
    monkeypatch.setattr(sample, "_MOST_CONTENT", most)
    monkeypatch.setattr(sample, "_STEP", 1024)
    content = gzip.compress(raw_shard(random_sizes(2000, seed=3)), mtime=0)
    found = foresee(counting({"a": content}), sample_bytes=len(content) // 2)
    assert found.sampled_bytes <= len(content) // 2
    assert found.sequences == pytest.approx(2000, rel=0.15)
