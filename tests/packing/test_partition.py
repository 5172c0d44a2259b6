from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from packing.partition import Members, assign_partitions, find_members
from packing.types import RawShard, Rejection, Segment, ShardSummary

CAPACITY = 100


def summary_of(name: str, sizes: list[int]) -> ShardSummary:
    """A shard with one segment of each of these compact sizes, ten records each, the last of which was rejected."""
    segments = tuple(
        Segment(
            number=i,
            first_record=10 * i,
            records=10,
            start=1000 * i,
            stop=1000 * (i + 1),
            compact_bytes=size,
            lengths=((7, 9, 1),) if size else (),
        )
        for i, size in enumerate(sizes)
    )
    rejected = tuple(Rejection(name, s.stop_record - 1, s.stop - 9, "good", "bad") for s in segments)
    return ShardSummary(RawShard(name, f"/raw/{name}", 1, "etag"), "sha", segments, rejected)


shards_of_many_sizes = st.dictionaries(
    st.text("abcdef/0123456789", min_size=1), st.lists(st.integers(0, 60), max_size=8), max_size=40
).map(lambda sizes: [summary_of(name, own) for name, own in sizes.items()])


def segments_of(members: Members) -> list[tuple[str, int]]:
    return [(summary.shard.name, segment.number) for summary in members.summaries for segment in summary.segments]


@given(shards_of_many_sizes, st.randoms(use_true_random=False))
def test_every_segment_has_one_partition_whatever_the_order(shards: list[ShardSummary], random: random.Random) -> None:
    partitions = assign_partitions(shards, CAPACITY)
    assigned = sorted(segment for members in partitions for segment in segments_of(members))
    wanted = {(shard.shard.name, segment.number) for shard in shards for segment in shard.segments if segment.sequences}
    assert wanted <= set(assigned)
    assert len(set(assigned)) == len(assigned)
    for members in partitions:
        assert members.sequences
        assert members.compact_bytes <= CAPACITY
        assert members.records is None or len(members.summaries) == 1
    assert assign_partitions(random.sample(shards, len(shards)), CAPACITY) == partitions


@given(shards_of_many_sizes)
def test_a_divided_shard_is_covered_record_by_record(shards: list[ShardSummary]) -> None:
    partitions = assign_partitions(shards, CAPACITY)
    for shard in shards:
        ranges = sorted(m.records for m in partitions if m.records and m.names == (shard.shard.name,))
        assert bool(ranges) == (shard.compact_bytes > CAPACITY)
        kept = [rejection for m in partitions if m.records for s in m.summaries for rejection in s.rejected]
        if ranges and all(segment.sequences for segment in shard.segments):
            assert ranges[0][0] == 0
            assert ranges[-1][1] == shard.records
            assert all(before[1] == after[0] for before, after in pairwise(ranges))
            assert set(shard.rejected) <= set(kept)


@given(shards_of_many_sizes)
def test_members_are_found_again_by_what_a_partition_states(shards: list[ShardSummary]) -> None:
    by_name = {shard.shard.name: shard for shard in shards}
    for members in assign_partitions(shards, CAPACITY):
        assert find_members(members.names, members.records, by_name) == members


@given(shards_of_many_sizes, st.lists(st.integers(1, 60), min_size=1, max_size=4))
@example([summary_of("0", [0]), summary_of("0" * 14, [41])], [60])
def test_a_new_shard_touches_one_partition(shards: list[ShardSummary], sizes: list[int]) -> None:
    new = summary_of("new", sizes)
    before = set(assign_partitions(shards, CAPACITY))
    after = set(assign_partitions([*shards, new], CAPACITY))
    touched = before - after
    assert len(touched) <= (new.compact_bytes <= CAPACITY)
    changed = {segment for members in after - before for segment in segments_of(members)}
    assert set(segments_of(Members((new,)))) <= changed
    # What has no sequences may end in a partition of its own, which is then left out.
    full = {(shard.shard.name, segment.number) for shard in shards for segment in shard.segments if segment.sequences}
    assert changed >= {segment for members in touched for segment in segments_of(members)} & full


def test_many_small_shards_fill_partitions_reasonably() -> None:
    partitions = assign_partitions([summary_of(f"part-{i:05d}", [1]) for i in range(5000)], CAPACITY)
    assert 5000 / CAPACITY <= len(partitions) <= 2.2 * 5000 / CAPACITY


def test_a_large_shard_is_divided_evenly() -> None:
    partitions = assign_partitions([summary_of("large", [9] * 50)], CAPACITY)
    sizes = [members.compact_bytes for members in partitions]
    assert sum(sizes) == 450
    assert len(sizes) == 5
    assert max(sizes) - min(sizes) <= 9
