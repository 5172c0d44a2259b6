"""What a dry run takes for left to write, from a sample of the new shards, against what the refresh then writes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from packing import estimate as estimate_module
from packing import scan
from packing.errors import InputError
from packing.estimate import estimate, stand_in
from packing.listing import list_raw_shards
from packing.outlook import Outlook
from packing.overlay import Overlay
from packing.parallel import serial
from packing.pipeline import Refresh
from packing.scan import scan_shard
from packing.survey import Request, Survey, look
from packing.types import Parameters, RawShard
from tests.builders import random_sizes, raw_shard
from tests.packing.test_predict import SMALL, CountingStorage, counting, foresee, pack


def shards(prefix: str, count: int, seed: int, sequences: int = 60) -> dict[str, bytes]:
    return {f"{prefix}-{i}": raw_shard(random_sizes(sequences, seed=seed + i), seed=seed + i) for i in range(count)}


def add(storage: CountingStorage, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        storage.write(f"/raw/{name}", content)


def survey(storage: CountingStorage, sample_bytes: int, parameters: Parameters = SMALL) -> tuple[Survey, Outlook]:
    """What is looked at, and what is estimated from it."""
    request = Request("/out", parameters, solvers=2, max_rejected=0, time_limit=None, sample_bytes=sample_bytes)
    found = look(Overlay(storage), serial(storage), list_raw_shards(storage, "/raw"), request)
    assert not found.exact
    return found, estimate(serial(storage), found, request)


def packed_shards(storage: CountingStorage) -> dict[str, bytes]:
    return {uri: content for uri, content in storage.objects.items() if uri.startswith("/out/shards/")}


def raw_bytes_of_write(storage: CountingStorage, new: dict[str, bytes]) -> tuple[Refresh, int]:
    """A refresh, and the bytes of raw shards that it reads besides the scan of the new ones."""
    storage.bytes_read.clear()
    outcome = pack(storage)
    return outcome, storage.raw_bytes_read() - sum(map(len, new.values()))


@pytest.mark.parametrize(("count", "part"), [(1, 3), (3, 4), (8, 5)])
def test_what_is_left_to_write_is_about_what_the_refresh_writes(count: int, part: int) -> None:
    """Within one partition: whether one that nearly exceeds the capacity is split depends on the last few bytes."""
    storage = counting(shards("known", 40, seed=0))
    pack(storage)
    there = packed_shards(storage)
    new = shards("new", count, seed=100)
    add(storage, new)
    sample_bytes = sum(map(len, new.values())) // part
    found, outlook = survey(storage, sample_bytes)
    prediction = foresee(storage, sample_bytes=sample_bytes)
    left = outlook.left

    outcome, read = raw_bytes_of_write(storage, new)
    written = {uri: content for uri, content in packed_shards(storage).items() if uri not in there}
    one = max(outcome.recipe.partitions, key=lambda partition: partition.packs)
    assert 0 < outcome.partitions_written < len(outcome.recipe.partitions) / 2
    assert left.partitions == pytest.approx(outcome.partitions_written, abs=1)
    assert left.raw_bytes == pytest.approx(read, abs=found.bytes / len(found.shards) * len(one.shards))
    new_packs = sum(shard.packs for shard in outcome.manifest.shards if shard.uri in written)
    assert left.packs == pytest.approx(new_packs, abs=one.packs)
    assert left.packs / outlook.statistics["packs"] < 1 / 2
    kept_bytes = outcome.manifest.bytes - sum(map(len, written.values()))
    assert left.kept_bytes == pytest.approx(kept_bytes, abs=outcome.manifest.bytes / outcome.manifest.packs * one.packs)
    assert prediction.output_bytes == pytest.approx(outcome.manifest.bytes, rel=0.03)
    assert prediction.packs == pytest.approx(outcome.manifest.packs, rel=0.03)
    assert prediction.sequences == pytest.approx(outcome.manifest.sequences, rel=0.03)


def test_without_packed_shards_all_is_left() -> None:
    storage = counting(shards("known", 10, seed=0))
    for shard in list_raw_shards(storage, "/raw"):
        scan_shard(storage, shard, destination="/out")
    new = shards("new", 4, seed=100)
    add(storage, new)
    found, outlook = survey(storage, 60_000)
    assert outlook.left.raw_bytes == pytest.approx(found.bytes)
    assert outlook.left.packs == outlook.statistics["packs"]
    assert outlook.left.kept_bytes == 0
    outcome, read = raw_bytes_of_write(storage, new)
    assert read == found.bytes
    assert outlook.left.partitions == pytest.approx(outcome.partitions_written, abs=1)


def test_partitions_that_are_solved_but_not_written_keep_their_answers() -> None:
    """Their packs count as they are; to be written, they are left all the same."""
    storage = counting(shards("known", 20, seed=0))
    pack(storage)
    add(storage, shards("new", 1, seed=100))
    _, before = survey(storage, 10_000)
    for uri in packed_shards(storage):
        storage.delete(uri)
    _, after = survey(storage, 10_000)
    assert after.statistics == before.statistics
    assert (after.left.packs, after.left.kept_bytes) == (after.statistics["packs"], 0)
    assert after.left.partitions > before.left.partitions


def test_a_shard_that_is_sampled_to_its_end_is_known() -> None:
    """If it is what was packed before, it is no reason to write anything, though it has no index."""
    storage = counting({"small": raw_shard(random_sizes(4, seed=50), seed=50)})
    (small,) = list_raw_shards(storage, "/raw")
    scan_shard(storage, small, destination="/out")
    its_index = [uri for uri in storage.objects if uri.startswith("/out/index/")]
    add(storage, shards("known", 20, seed=0))
    pack(storage)
    add(storage, {"new": raw_shard(random_sizes(400, seed=100), seed=100)})
    _, before = survey(storage, 60_000)
    for uri in its_index:
        storage.delete(uri)
    found, after = survey(storage, 60_000)
    assert {shard.name for shard in found.new} == {"new", "small"}
    assert (after.left.partitions, after.left.kept_bytes) == (before.left.partitions, before.left.kept_bytes)


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_a_shard_that_was_not_read_is_judged_by_its_stored_bytes(
    monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """In number and size of its segments, between which a large shard is divided, too."""
    for module in (scan, estimate_module):
        monkeypatch.setattr(module, "SEGMENT_BYTES", 40_000)
    content = raw_shard(random_sizes(800, seed=1), seed=1, compression=compression)
    storage = counting({"a": content})
    parameters = replace(SMALL, partition_bytes=30_000)
    found, outlook = survey(storage, len(content) // 3, parameters)
    (shard,) = list_raw_shards(storage, "/raw")
    real = scan_shard(storage, shard, destination="/other")
    judged = stand_in(shard, found.scanned)
    few = 0.15 if compression else 0.05
    assert judged.shard == RawShard("a", "/raw/a", len(content), shard.etag)
    for name in ("sequences", "records", "compact_bytes"):
        assert getattr(judged, name) == pytest.approx(getattr(real, name), rel=few)
    assert len(judged.segments) == pytest.approx(len(real.segments), rel=0.2)
    assert len(real.segments) > 3
    outcome = pack(storage, parameters)
    assert outlook.left.partitions == pytest.approx(outcome.partitions_written, abs=1)
    assert outlook.left.raw_bytes == pytest.approx(len(content))


def test_a_sample_without_sequences_says_where_it_is_from() -> None:
    storage = counting(shards("long", 4, seed=0))
    with pytest.raises(InputError, match=r"^/raw: expected at least one sequence in a sample .*; check the prefix$"):
        foresee(storage, replace(SMALL, max_sequence_length=2), sample_bytes=10_000, max_rejected=1_000)
