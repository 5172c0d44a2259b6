from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from packing.partition import assign_partitions
from packing.types import RawShard

CAPACITY = 100

shards_of_many_sizes = st.dictionaries(st.text("abcdef/0123456789", min_size=1), st.integers(0, 150), max_size=40).map(
    lambda sizes: [RawShard(name, f"/raw/{name}", size, "etag") for name, size in sizes.items()]
)


@given(shards_of_many_sizes, st.randoms(use_true_random=False))
def test_every_shard_has_one_partition_whatever_the_order(shards: list[RawShard], random: random.Random) -> None:
    partitions = assign_partitions(shards, CAPACITY)
    assert sorted(shard.name for partition in partitions for shard in partition) == sorted(s.name for s in shards)
    assert all(len(p) == 1 or sum(shard.size for shard in p) <= CAPACITY for p in partitions)
    shuffled = random.sample(shards, len(shards))
    assert assign_partitions(shuffled, CAPACITY) == partitions


@given(shards_of_many_sizes, st.data())
def test_a_new_shard_touches_one_partition(shards: list[RawShard], data: st.DataObject) -> None:
    new = RawShard("new", "/raw/new", data.draw(st.integers(0, 150)), "etag")
    before = set(assign_partitions(shards, CAPACITY))
    after = set(assign_partitions([*shards, new], CAPACITY))
    touched = before - after
    assert len(touched) <= 1
    changed = {shard for partition in after - before for shard in partition}
    assert changed == {new}.union(*touched)


def test_many_small_shards_fill_partitions_reasonably() -> None:
    shards = [RawShard(f"part-{i:05d}", f"/raw/part-{i:05d}", 1, "etag") for i in range(5000)]
    partitions = assign_partitions(shards, CAPACITY)
    assert 5000 / CAPACITY <= len(partitions) <= 2.2 * 5000 / CAPACITY
