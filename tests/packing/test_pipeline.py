"""A whole refresh in memory: what it makes, what it reuses, and what it leaves behind when it fails."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing import recipe, scan, write
from packing.adapters import open_storage
from packing.commit import commit, find_written
from packing.errors import InputError, ObjectChangedError, RecordError, StowageError, UsageError
from packing.example import encode_example
from packing.in_memory import MemoryStorage
from packing.listing import list_raw_shards
from packing.parallel import process_pool, serial
from packing.partition import find_members
from packing.pipeline import Refresh, refresh
from packing.recipe import PACKER_FORMAT
from packing.scan import scan_shard
from packing.solve import solve_recipe
from packing.spool import Spool
from packing.tfrecord import encode_record
from packing.types import Parameters, Recipe
from packing.verify import require, verify_dataset
from packing.write import write_partition
from tests import builders
from tests.builders import random_sizes, raw_shard, stages_of, store_with

WIKIPEDIA = Path(__file__).resolve().parents[3] / "shared" / "data" / "wikipedia"
SMALL = Parameters(max_sequence_length=64, max_predictions_per_sequence=10, partition_bytes=20_000)


def some_shards(count: int = 6, sequences: int = 30) -> dict[str, bytes]:
    return {f"part-{i}": raw_shard(random_sizes(sequences, seed=i), seed=i) for i in range(count)}


def pack(
    storage: MemoryStorage, parameters: Parameters = SMALL, *, spool: Spool | None = None, max_rejected: int = 0
) -> Refresh:
    stages = stages_of(serial(storage), spool)
    return refresh(storage, stages, "/raw", "/out", parameters, max_rejected=max_rejected)


def packed_bytes(storage: MemoryStorage) -> dict[str, bytes]:
    return {uri: content for uri, content in storage.objects.items() if uri.startswith("/out/shards/")}


def manifests(storage: MemoryStorage) -> list[str]:
    return [uri for uri in storage.objects if uri.startswith("/out/manifests/")]


def raw_reads(storage: MemoryStorage) -> set[str]:
    return {uri for kind, uri in storage.requests if kind == "read" and uri.startswith("/raw/")}


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(1, 64), max_size=25), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sampled_from(["optimal", "nnls", "spfhp", "lpfhp"]),
    st.integers(0, 3),
)
def test_every_sequence_is_packed_exactly_once(shards: list[list[int]], k: int, solver: str, seed: int) -> None:
    if not any(shards) or (solver == "nnls" and k > 3):
        return
    contents = {
        f"s{i}": raw_shard([(length, min(10, length // 4)) for length in lengths], seed=i)
        for i, lengths in enumerate(shards)
    }
    storage = store_with(contents)
    parameters = Parameters(
        max_sequence_length=64,
        max_sequences_per_pack=k,
        max_predictions_per_sequence=16,
        solver=solver,
        seed=seed,
        partition_bytes=5_000,
    )
    outcome = pack(storage, parameters)
    checks = verify_dataset(storage, serial(storage), outcome.manifest_uri, "/raw")
    assert len(checks) == 4
    require(checks)
    assert outcome.manifest.sequences == sum(map(len, shards))
    assert outcome.manifest.packs >= outcome.recipe.statistics["lower_bound"]


def test_the_same_input_gives_the_same_bytes_whatever_the_order_of_arrival() -> None:
    shards = some_shards()
    one, other = store_with(shards), store_with(dict(reversed(shards.items())))
    assert pack(one).recipe.recipe_id == pack(other).recipe.recipe_id
    assert packed_bytes(one) == packed_bytes(other)
    assert len(packed_bytes(one)) > 1


def test_another_seed_gives_the_same_packs_in_another_order() -> None:
    one, other = store_with(some_shards()), store_with(some_shards())
    first, second = pack(one), pack(other, Parameters(**{**vars(SMALL), "seed": 1}))
    assert first.recipe.recipe_id != second.recipe.recipe_id
    assert first.recipe.strategies == second.recipe.strategies
    assert sorted(packed_bytes(one).values()) != sorted(packed_bytes(other).values())


def test_a_place_is_no_part_of_a_recipe() -> None:
    one = store_with(some_shards())
    other = store_with(some_shards(), source="/elsewhere")
    outcome = refresh(other, stages_of(serial(other)), "/elsewhere", "/there", SMALL)
    assert outcome.recipe.recipe_id == pack(one).recipe.recipe_id
    assert sorted(packed_bytes(one).values()) == sorted(
        content for uri, content in other.objects.items() if uri.startswith("/there/shards/")
    )


def test_nothing_changed_reads_and_writes_nothing() -> None:
    storage = store_with(some_shards())
    first = pack(storage)
    storage.requests.clear()
    second = pack(storage)
    assert second.unchanged
    assert second.manifest == first.manifest
    assert not raw_reads(storage)
    assert not [uri for kind, uri in storage.requests if kind == "write"]


def test_a_known_listing_needs_no_index() -> None:
    storage = store_with(some_shards())
    first = pack(storage)
    for uri in [uri for uri in storage.objects if "/index/shards/" in uri]:
        del storage.objects[uri]
    storage.requests.clear()
    assert pack(storage).recipe == first.recipe
    assert not raw_reads(storage)
    storage.write("/raw/part-0", storage.objects["/raw/part-0"] + b"")
    del storage.objects[first.manifest.shards[0].uri]
    assert pack(storage).partitions_written == 1


def test_a_new_shard_costs_its_own_partition() -> None:
    shards = some_shards(count=12)
    storage = store_with(shards)
    before = pack(storage)
    storage.write("/raw/part-new", raw_shard(random_sizes(30, seed=99), seed=99))
    storage.requests.clear()
    after = pack(storage)
    kept = {p.digest for p in before.recipe.partitions} & {p.digest for p in after.recipe.partitions}
    rewritten = [p for p in after.recipe.partitions if p.digest not in kept]
    assert len(kept) >= 2
    assert after.shards_scanned == 1
    assert after.partitions_written == len(rewritten)
    assert raw_reads(storage) == {f"/raw/{name}" for partition in rewritten for name in partition.shards}
    require(verify_dataset(storage, serial(storage), after.manifest_uri, "/raw"))
    require(verify_dataset(storage, serial(storage), before.manifest_uri))


@pytest.mark.parametrize("damage", ["lost", "overwritten with as many bytes"])
def test_a_damaged_packed_shard_is_written_again(damage: str) -> None:
    storage = store_with(some_shards())
    outcome = pack(storage)
    before = packed_bytes(storage)
    uri = outcome.manifest.shards[0].uri
    if damage == "lost":
        del storage.objects[uri]
    else:
        storage.objects[uri] = bytes(len(storage.objects[uri]))
    again = pack(storage)
    assert again.partitions_written == 1
    assert packed_bytes(storage) == before


GARBAGE = [b"", b"no json", b"{}", b"[]", b"null", b'{"strategies": [{"lengths": [64], "count": 1}], "complete": true}']
KINDS = ["index/", "index/shards/", "index/solved/", "index/written/", "index/inputs/", "recipes/", "manifests/"]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", [True, False])
def test_whatever_can_be_made_again_heals(kind: str, garbage: bytes, *, lost: bool) -> None:
    """Damaged caches, recipes and manifests cost work, never a result, with and without a packed shard lost."""
    storage = store_with(some_shards())
    outcome = pack(storage)
    before = dict(storage.objects)
    damaged = [uri for uri in storage.objects if uri.startswith(f"/out/{kind}")]
    assert damaged
    for uri in damaged:
        storage.objects[uri] = garbage
    if lost:
        del storage.objects[outcome.manifest.shards[0].uri]
    again = pack(storage)
    assert again.recipe.recipe_id == outcome.recipe.recipe_id
    require(verify_dataset(storage, serial(storage), again.manifest_uri, "/raw"))
    assert packed_bytes(storage) == {uri: own for uri, own in before.items() if uri.startswith("/out/shards/")}
    assert storage.objects[outcome.manifest_uri] == before[outcome.manifest_uri]


@pytest.mark.parametrize("lost", [True, False])
def test_any_figure_altered_in_a_cache_is_not_believed(*, lost: bool) -> None:
    original = store_with(some_shards(3))
    outcome = pack(original)
    documents = [uri for uri in original.objects if "/index/" in uri and uri.endswith(".json")]
    altered = 0
    for uri in documents:
        for path in _leaves(json.loads(original.objects[uri])["document"]):
            storage = MemoryStorage()
            storage.objects = dict(original.objects)
            storage.objects[uri] = _altered(storage.objects[uri], ["document", *path])
            if lost:
                del storage.objects[outcome.manifest.shards[0].uri]
            again = pack(storage)
            assert packed_bytes(storage) == packed_bytes(original), (uri, path)
            assert storage.objects[again.manifest_uri] == original.objects[outcome.manifest_uri], (uri, path)
            altered += 1
    assert altered > 50


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths to what is no list and no object; of a long list the first and the last entry."""
    if isinstance(value, dict):
        return [leaf for key, own in value.items() for leaf in _leaves(own, (*path, key))]
    if isinstance(value, list):
        return [leaf for key in sorted({0, len(value) - 1}) if value for leaf in _leaves(value[key], (*path, key))]
    return [path]


def _altered(content: bytes, path: list[str | int]) -> bytes:
    document = json.loads(content)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    value = parent[path[-1]]
    parent[path[-1]] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "0" * 64
    return json.dumps(document).encode()


def test_an_altered_manifest_is_made_again() -> None:
    storage = store_with(some_shards())
    outcome = pack(storage)
    before = storage.objects[outcome.manifest_uri]
    document = json.loads(before)
    document["shards"][0]["sha256"] = "0" * 64
    storage.objects[outcome.manifest_uri] = json.dumps(document).encode()
    assert not pack(storage).unchanged
    assert storage.objects[outcome.manifest_uri] == before


def test_an_altered_bound_is_not_passed_on() -> None:
    storage = store_with(some_shards())
    outcome = pack(storage)
    uri = f"/out/recipes/{outcome.recipe.recipe_id}.json"
    document = json.loads(storage.objects[uri])
    document["statistics"]["gap"] = -5
    storage.objects[uri] = json.dumps(document).encode()
    again = pack(storage)
    assert again.recipe.statistics["gap"] == outcome.recipe.statistics["gap"]
    require(verify_dataset(storage, serial(storage), again.manifest_uri, "/raw"))


def test_a_replaced_raw_shard_stops_the_write_and_leaves_no_manifest() -> None:
    storage = store_with(some_shards())
    shards = list_raw_shards(storage, "/raw")
    summaries = [scan_shard(storage, shard, destination="/out") for shard in shards]
    recipe = solve_recipe(storage, serial(storage), "/out", SMALL, summaries)
    storage.write("/raw/part-3", raw_shard(random_sizes(30, seed=77), seed=77))
    (partition,) = [p for p in recipe.partitions if "part-3" in p.shards]
    members = find_members(partition.shards, None, {summary.shard.name: summary for summary in summaries})
    with pytest.raises(ObjectChangedError, match="/raw/part-3"):
        write_partition(storage, partition, members, destination="/out", parameters=SMALL)
    with pytest.raises(StowageError, match="incomplete"):
        commit(storage, "/out", recipe, find_written(storage, "/out", recipe))
    assert not manifests(storage)


@pytest.mark.parametrize("wrong", [{"max_rejected": -1}, {"time_limit": 0.0}, {"time_limit": float("nan")}])
def test_limits_that_cannot_work_are_refused_before_anything_is_read(wrong: dict[str, Any]) -> None:
    storage = store_with(some_shards(1))
    with pytest.raises(UsageError, match=next(iter(wrong))):
        refresh(storage, stages_of(serial(storage)), "/raw", "/out", SMALL, **wrong)
    assert not storage.requests


def test_masked_tokens_that_fit_nowhere_are_found_before_anything_is_written() -> None:
    storage = store_with({"a": raw_shard([(10, 10)] * 30), "b": raw_shard([(64, 1)] * 30, seed=1)})
    parameters = Parameters(max_sequence_length=64, max_sequences_per_pack=3, max_predictions_per_sequence=10)
    with pytest.raises(InputError, match="at most 13 masked tokens each"):
        pack(storage, parameters)
    assert not packed_bytes(storage)
    assert not manifests(storage)


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
        (
            {"a": raw_shard([(64, 1)])},
            Parameters(max_sequence_length=63),
            RecordError,
            r"at most 63 tokens \(max_sequence_length\), found 64",
        ),
    ],
)
def test_bad_input_is_named_and_leaves_no_manifest(
    shards: dict[str, bytes], parameters: Parameters, error: type[Exception], message: str
) -> None:
    storage = store_with(shards)
    with pytest.raises(error, match=message):
        pack(storage, parameters)
    assert not manifests(storage)
    assert not packed_bytes(storage)


def test_a_bad_record_is_found_before_anything_is_written() -> None:
    """Whatever is wrong with the last record of the last shard: nothing of the others is packed yet."""
    good = some_shards(3)
    for wrong in BAD_RECORDS:
        storage = store_with({**good, "z": good["part-0"] + encode_record(wrong)})
        with pytest.raises(RecordError, match="/raw/z: record 30 at offset "):
            pack(storage)
        assert not packed_bytes(storage)
        assert not manifests(storage)


def _wrong(feature: str, at: int, value: float) -> bytes:
    features = builders.raw_features(20, 3)
    features[feature][at] = value
    return encode_example(features)


BAD_RECORDS = [
    _wrong("masked_lm_positions", 2, 20),
    _wrong("masked_lm_positions", 0, -1),
    _wrong("input_mask", 4, 0),
    _wrong("input_mask", 4, 2),
    _wrong("masked_lm_weights", 1, float("nan")),
    _wrong("masked_lm_weights", 1, 0.5),
    _wrong("next_sentence_labels", 0, 2),
    _wrong("next_sentence_labels", 0, -1),
    _wrong("segment_ids", 3, 2),
    _wrong("input_ids", 3, -7),
    builders.raw_example(65, 3, slots=80),
    builders.raw_example(64, 11, predictions=20),
    b"no example",
]


def test_rejected_records_are_listed_and_the_others_packed() -> None:
    shards = some_shards(3)
    bad = b"".join(encode_record(wrong) for wrong in BAD_RECORDS)
    storage = store_with({"a": shards["part-0"], "b": bad + shards["part-1"], "c": shards["part-2"] + bad})
    with pytest.raises(RecordError):
        pack(storage, max_rejected=2 * len(BAD_RECORDS) - 1)
    assert not packed_bytes(storage)
    outcome = pack(storage, max_rejected=2 * len(BAD_RECORDS))
    recipe = outcome.recipe
    expected = {("b", n) for n in range(len(BAD_RECORDS))} | {("c", 30 + n) for n in range(len(BAD_RECORDS))}
    assert {(rejection.shard, rejection.record) for rejection in recipe.rejected} == expected
    assert (recipe.statistics["sequences"], recipe.statistics["rejected"]) == (90, 2 * len(BAD_RECORDS))
    require(verify_dataset(storage, serial(storage), outcome.manifest_uri, "/raw"))
    assert pack(storage, max_rejected=100).unchanged
    with pytest.raises(RecordError):
        pack(storage)


@pytest.mark.parametrize("compression", ["", "gzip"])
@pytest.mark.parametrize("spooled", [True, False])
def test_a_large_shard_is_packed_in_ranges_of_its_records(
    compression: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, spooled: bool
) -> None:
    monkeypatch.setattr(scan, "SEGMENT_BYTES", 5_000)
    bad = encode_record(b"\x0a\x00")
    content = raw_shard(random_sizes(200, seed=1)) + bad + raw_shard(random_sizes(100, seed=2), seed=2)
    stored = gzip.compress(content) if compression else content
    storage = store_with({"large": stored, "small": raw_shard(random_sizes(9, seed=3), seed=3)})
    parameters = replace(SMALL, partition_bytes=8_000)
    outcome = pack(storage, parameters, spool=Spool(str(tmp_path), 10**9) if spooled else None, max_rejected=1)
    ranges = [partition.records for partition in outcome.recipe.partitions if partition.shards == ("large",)]
    assert len(ranges) >= 3
    assert all(ranges)
    assert (ranges[0][0], ranges[-1][1]) == (0, 301)
    assert [rejection.record for rejection in outcome.recipe.rejected] == [200]
    for uri in [uri for uri in storage.objects if uri.endswith(".npz") or "/index/solved/" in uri]:
        del storage.objects[uri]
    tight = replace(parameters, max_sequence_length=63)
    over = pack(storage, tight, max_rejected=50).recipe.rejected
    assert len(over) > 1
    assert any(rejection.record == 200 for rejection in over)
    assert outcome.manifest.sequences == 309
    require(verify_dataset(storage, serial(storage), outcome.manifest_uri, "/raw"))


def test_a_spool_saves_the_second_reading_and_changes_nothing(tmp_path: Path) -> None:
    plain, spooled, small = (store_with(some_shards()) for _ in range(3))
    pack(plain)
    pack(spooled, spool=Spool(str(tmp_path), 10**9))
    (tmp_path / "small").mkdir()
    pack(small, spool=Spool(str(tmp_path / "small"), 20_000))
    assert packed_bytes(plain) == packed_bytes(spooled) == packed_bytes(small)
    reads = [
        len([uri for kind, uri in s.requests if kind == "read" and uri.startswith("/raw/")])
        for s in (plain, small, spooled)
    ]
    assert reads[0] > reads[1] > reads[2] == 6


def test_a_packer_that_gives_other_bytes_reuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = store_with(some_shards())
    before = pack(storage)
    monkeypatch.setattr(recipe, "PACKER_FORMAT", PACKER_FORMAT + 1)
    after = pack(storage)
    assert not after.unchanged
    assert after.partitions_written == len(after.recipe.partitions)
    assert not {p.digest for p in before.recipe.partitions} & {p.digest for p in after.recipe.partitions}
    assert not {p.input_id for p in before.recipe.partitions} & {p.input_id for p in after.recipe.partitions}


def test_packed_shards_are_of_even_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "PACKED_SHARD_BYTES", 20_000)
    storage = store_with(some_shards(2, sequences=200))
    outcome = pack(storage, Parameters(max_sequence_length=64, max_predictions_per_sequence=10))
    sizes = [shard.bytes for shard in outcome.manifest.shards]
    assert len(sizes) >= 4
    assert max(sizes) <= 20_000 + 1000
    assert max(sizes) - min(sizes) <= 2000


def test_a_destination_below_the_source_is_refused() -> None:
    storage = store_with(some_shards(1))
    for destination in ("/raw", "/raw/packed"):
        with pytest.raises(UsageError, match="below"):
            refresh(storage, stages_of(serial(storage)), "/raw", destination, SMALL)
    with pytest.raises(UsageError, match="part of the packed dataset"):
        refresh(storage, stages_of(serial(storage)), "/out/shards", "/out", SMALL)
    refresh(storage, stages_of(serial(storage)), "/raw", "/raw-packed", SMALL)


def test_the_recipe_is_announced_before_any_pack_is_written() -> None:
    storage = store_with(some_shards(2))
    seen: list[tuple[Recipe, int]] = []
    refresh(
        storage,
        stages_of(serial(storage)),
        "/raw",
        "/out",
        SMALL,
        on_recipe=lambda recipe: seen.append((recipe, len(packed_bytes(storage)))),
    )
    ((recipe, written),) = seen
    assert written == 0
    assert f"/out/recipes/{recipe.recipe_id}.json" in storage.objects


def test_the_pointer_names_the_newest_manifest() -> None:
    storage = store_with(some_shards(2))
    outcome = pack(storage)
    pack(storage, replace(SMALL, max_sequences_per_pack=2))
    assert pack(storage).unchanged
    latest = json.loads(storage.objects["/out/latest.json"])
    assert latest == {"manifest": outcome.manifest_uri, "recipe_id": outcome.recipe.recipe_id}


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, content in some_shards().items():
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(content)
    digests = []
    for workers in (1, 3):
        with process_pool(workers, open_storage) as stage_map:
            outcome = refresh(
                open_storage(), stages_of(stage_map), f"{tmp_path}/raw", f"{tmp_path}/out-{workers}", SMALL
            )
        digests.append([shard.sha256 for shard in outcome.manifest.shards])
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_an_error_in_a_worker_arrives_with_its_fields(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a").write_bytes(raw_shard([(9, 1)] * 5)[:-3])
    with process_pool(2, open_storage) as stage_map, pytest.raises(RecordError) as caught:
        refresh(open_storage(), stages_of(stage_map), f"{tmp_path}/raw", f"{tmp_path}/out", SMALL)
    assert caught.value.record == 4


@pytest.mark.slow
@pytest.mark.skipif(not WIKIPEDIA.is_dir(), reason="the Wikipedia sample is not here")
def test_the_wikipedia_sample_is_packed_and_verified(tmp_path: Path) -> None:
    with process_pool(2, open_storage) as stage_map:
        outcome = refresh(open_storage(), stages_of(stage_map), str(WIKIPEDIA), str(tmp_path / "out"), Parameters())
        checks = verify_dataset(open_storage(), stage_map, outcome.manifest_uri, str(WIKIPEDIA))
    require(checks)
    assert len(checks) == 4
    assert outcome.manifest.sequences == 13_827
    assert outcome.recipe.statistics["gap"] <= 1
