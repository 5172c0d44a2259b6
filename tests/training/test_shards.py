from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Event, Lock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing.errors import InputError, RecordError, StorageError, UsageError, VerificationError
from packing.in_memory import MemoryStorage
from packing.tfrecord import FRAME_BYTES, encode_record
from packing.types import RawShard
from training.background import StoppedError
from training.feed import Slices, read_batches
from training.order import Order, Sizes, Window, in_order
from training.records import Records, Shard
from training.shards import WINDOWS, Cache

PAYLOADS = [b"", b"a", b"some text", b"\0" * 300]


class FirstComesLast(MemoryStorage):
    """A store that answers the read of `first` after that of `last`."""

    def __init__(self, first: str, last: str) -> None:
        super().__init__()
        self._first, self._last, self.asked, self._answered = first, last, Event(), Event()

    def read(self, uri: str, *, start: int = 0, size: int | None = None, etag: str | None = None) -> bytes:
        if uri == self._first:
            self.asked.set()
            assert self._answered.wait(30)
        content = super().read(uri, start=start, size=size, etag=etag)
        if uri == self._last:
            self._answered.set()
        return content


def store(storage: MemoryStorage, uri: str, payloads: Sequence[bytes]) -> Shard:
    content = b"".join(map(encode_record, payloads))
    storage.write(uri, content)
    return Shard(uri, len(content), len(payloads), hashlib.sha256(content).hexdigest())


def store_many(storage: MemoryStorage, sizes: Sequence[int]) -> list[Shard]:
    """One shard a size, of one record that fills it; all different."""
    return [
        store(storage, f"/shards/{number}", [number.to_bytes(2, "big") * ((size - FRAME_BYTES) // 2)])
        for number, size in enumerate(sizes)
    ]


def sizes_of(shards: Sequence[Shard]) -> Sizes:
    return Sizes(np.array([shard.examples for shard in shards]), np.array([shard.bytes for shard in shards]))


def reads(storage: MemoryStorage) -> list[str]:
    return [uri for kind, uri in storage.requests if kind == "read"]


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".tfrecord", ".tmp"))


@given(payloads=st.lists(st.binary(max_size=50), max_size=20))
@settings(max_examples=30)
def test_records_are_those_of_the_shard(payloads: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    storage = MemoryStorage()
    shard = store(storage, "/shard", payloads)
    (records,) = Cache(tmp_path_factory.mktemp("cache")).open(storage, [shard])
    assert [records[index] for index in range(len(records))] == payloads


def test_a_copy_is_read_again_only_if_it_is_damaged(tmp_path: Path) -> None:
    storage = MemoryStorage()
    shard = store(storage, "/shard", PAYLOADS)
    Cache(tmp_path).open(storage, [shard])
    (records,) = Cache(tmp_path).open(storage, [shard])
    assert reads(storage) == ["/shard"]
    del records
    (copy,) = tmp_path.glob("*.tfrecord")
    copy.write_bytes(copy.read_bytes()[:-1] + b"!")
    (records,) = Cache(tmp_path).open(storage, [shard])
    assert reads(storage) == ["/shard"] * 2
    assert records[3] == PAYLOADS[3]


@pytest.mark.parametrize(
    "alter", [lambda content: content[:-1], lambda content: content + b"x", lambda content: content[:-1] + b"x"]
)
def test_an_altered_shard_leaves_no_copy(tmp_path: Path, alter: Callable[[bytes], bytes]) -> None:
    storage = MemoryStorage()
    shard = store(storage, "/shard", PAYLOADS)
    storage.objects["/shard"] = alter(storage.objects["/shard"])
    with pytest.raises(VerificationError, match=f"/shard: expected {shard.bytes} bytes with SHA-256 {shard.sha256}"):
        Cache(tmp_path).open(storage, [shard])
    assert used(tmp_path) == 0
    assert not list(tmp_path.glob("*.t*"))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="/nowhere: the manifest lists this shard"):
        Cache(tmp_path).open(MemoryStorage(), [Shard("/nowhere", 1, 1, "0" * 64)])


def test_a_shard_with_other_examples_than_listed_is_refused(tmp_path: Path) -> None:
    storage = MemoryStorage()
    shard = store(storage, "/shard", PAYLOADS)
    with pytest.raises(InputError, match="/shard: expected 5 examples, found 4"):
        Cache(tmp_path).open(storage, [Shard(shard.uri, shard.bytes, 5, shard.sha256)])


@pytest.mark.parametrize("tail", [b"x", b"no record at all", encode_record(b"cut off")[:-1]])
def test_content_that_is_no_tfrecord_is_refused_though_its_digest_is_right(tmp_path: Path, tail: bytes) -> None:
    storage = MemoryStorage()
    content = encode_record(b"whole") + tail
    storage.write("/shard", content)
    with pytest.raises(RecordError, match="/shard: record 1 at offset 21"):
        Cache(tmp_path).open(storage, [Shard("/shard", len(content), 2, hashlib.sha256(content).hexdigest())])


@given(sizes=st.lists(st.integers(20, 60), min_size=1, max_size=12), room=st.integers(0, 100), data=st.data())
@settings(max_examples=40)
def test_all_windows_together_keep_the_limit_and_nothing_is_fetched_twice_for_them(
    sizes: list[int], room: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, storage = tmp_path_factory.mktemp("cache"), MemoryStorage()
    shards = store_many(storage, sizes)
    cache = Cache(folder, WINDOWS * max(shard.bytes for shard in shards) + room)
    assert cache.limit_bytes is not None
    held: list[tuple[list[Shard], list[Records]]] = []
    for _ in range(12):
        window: list[Shard] = []
        for number in data.draw(st.lists(st.integers(0, len(shards) - 1), unique=True)):
            if sum(shard.bytes for shard in [*window, shards[number]]) <= (cache.window_bytes or 0):
                window.append(shards[number])
        storage.requests.clear()
        coming = cache.open(storage, window)
        before = [shard for window, _ in held for shard in window]
        assert used(folder) <= cache.limit_bytes
        assert {shard.sha256 for shard in [*before, *window]} <= {path.stem for path in folder.iterdir()}
        assert not set(reads(storage)) & {shard.uri for shard in before}
        assert [records[0] for records in coming] == [storage.objects[shard.uri][12:-4] for shard in window]
        held = [*held, (window, coming)][1 - WINDOWS :]


@given(
    sizes=st.lists(st.integers(20, 60), min_size=12, max_size=20),
    room=st.integers(0, 60),
    turns=st.lists(st.booleans(), min_size=10, max_size=40),
)
@settings(max_examples=30)
def test_training_and_held_out_data_together_keep_the_limit(
    sizes: list[int], room: int, turns: list[bool], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each is read from one window while the next one is fetched."""
    folder, storage = tmp_path_factory.mktemp("cache"), MemoryStorage()
    shards = store_many(storage, sizes)
    cache = Cache(folder, WINDOWS * max(shard.bytes for shard in shards) + room)
    assert cache.limit_bytes is not None
    one_at_a_time, most = Lock(), []

    def reading(own: Sequence[Shard], windows: Iterator[Window]) -> Iterator[object]:
        def open_shards(window: Window, stopped: Event) -> list[Records]:
            with one_at_a_time:
                records = cache.open(storage, [own[number] for number in window.shards], stopped)
                most.append(used(folder))
                return records

        return read_batches(windows, open_shards, Slices(1, 1, [0]), start=0)

    seen, held_out = shards[::2], shards[1::2]
    order = Order([sizes_of(seen)], 1, seed=0, window_bytes=cache.window_bytes)
    in_turn = (in_order(sizes_of(held_out), batch_size=1, window_bytes=cache.window_bytes) for _ in turns)
    training, evaluation = reading(seen, order.windows(0)), reading(held_out, chain.from_iterable(in_turn))
    for turn in turns:
        next(training if turn else evaluation)
    with one_at_a_time:
        assert max(most) <= cache.limit_bytes


def test_room_is_kept_for_what_another_thread_is_fetching(tmp_path: Path) -> None:
    storage = FirstComesLast("/shards/4", "/shards/5")
    shards = store_many(storage, [40] * 6)
    cache = Cache(tmp_path, 40 * WINDOWS)
    cache.open(storage, shards[:WINDOWS])
    assert used(tmp_path) == cache.limit_bytes
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(cache.open, storage, [shards[4]])
        assert storage.asked.wait(30)
        assert len(cache.open(storage, [shards[5]])[0]) == 1
        assert len(fetching.result(30)[0]) == 1
    assert used(tmp_path) == cache.limit_bytes


def test_what_was_not_used_for_longest_is_evicted(tmp_path: Path) -> None:
    storage = MemoryStorage()
    first, second, third, fourth = store_many(storage, [30, 30, 30, 30])
    cache = Cache(tmp_path, 90)
    for shard in (first, second, third, first):
        cache.open(storage, [shard])
    cache.open(storage, [fourth])
    storage.requests.clear()
    cache.open(storage, [first, third, fourth])
    assert reads(storage) == []
    cache.open(storage, [second])
    assert reads(storage) == [second.uri]


def test_what_is_open_stays_however_long_ago_it_was_opened(tmp_path: Path) -> None:
    storage = MemoryStorage()
    first, second, third = store_many(storage, [40, 40, 40])
    cache = Cache(tmp_path, 90)
    opened = cache.open(storage, [first])
    cache.open(storage, [second])
    cache.open(storage, [third])
    assert {path.stem for path in tmp_path.glob("*.t*")} == {first.sha256, third.sha256}
    assert len(opened[0]) == 1


def test_what_another_process_evicted_is_read_on_and_fetched_again(tmp_path: Path) -> None:
    storage = MemoryStorage()
    shard = store(storage, "/shard", PAYLOADS)
    cache = Cache(tmp_path)
    (records,) = cache.open(storage, [shard])
    for path in tmp_path.glob("*.tfrecord"):
        path.unlink()
    assert [records[index] for index in range(4)] == PAYLOADS
    (others,) = Cache(tmp_path).open(storage, [shard])
    assert others[2] == PAYLOADS[2]
    assert reads(storage) == ["/shard"] * 2


def test_workers_that_share_a_folder_fetch_each_shard_once(tmp_path: Path) -> None:
    storage = MemoryStorage()
    shards = store_many(storage, [40] * 20)
    caches = [Cache(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda cache: cache.open(storage, shards), caches))
    assert sorted(reads(storage)) == sorted(shard.uri for shard in shards)
    for records in opened:
        assert [one[0] for one in records] == [storage.objects[shard.uri][12:-4] for shard in shards]


def test_the_order_is_not_that_in_which_fetches_end(tmp_path: Path) -> None:
    storage = FirstComesLast("/shards/0", "/shards/7")
    shards = store_many(storage, [40] * 8)
    opened = Cache(tmp_path).open(storage, shards)
    assert [one[0] for one in opened] == [storage.objects[shard.uri][12:-4] for shard in shards]
    assert reads(storage)[0] != "/shards/0"


def test_an_unfinished_copy_of_a_killed_process_is_made_anew_or_evicted(tmp_path: Path) -> None:
    storage = MemoryStorage()
    first, second = store_many(storage, [40, 40])
    for shard in (first, second):
        (tmp_path / f"{shard.sha256}.tmp").write_bytes(b"half of it, or more than all of it" * 5)
    cache = Cache(tmp_path, 80)
    (records,) = cache.open(storage, [first])
    assert records[0] == storage.objects[first.uri][12:-4]
    assert [path.stem for path in tmp_path.glob("*.t*")] == [first.sha256]


def test_nothing_more_is_fetched_for_who_stopped(tmp_path: Path) -> None:
    storage = MemoryStorage()
    stopped = Event()
    stopped.set()
    with pytest.raises(StoppedError):
        Cache(tmp_path).open(storage, store_many(storage, [40] * 3), stopped)
    assert reads(storage) == []


def test_a_shard_larger_than_a_window_is_refused(tmp_path: Path) -> None:
    shards = store_many(MemoryStorage(), [30, 50, 40])
    Cache(tmp_path, 50 * WINDOWS).check_fits(shards)
    Cache(tmp_path).check_fits(shards)
    with pytest.raises(UsageError, match=r"/shards/1: a cache of 199 bytes has no room for 4 .* allow at least 200"):
        Cache(tmp_path, 50 * WINDOWS - 1).check_fits(shards)


def test_the_folder_is_made_when_it_is_needed_and_named_if_it_cannot_be(tmp_path: Path) -> None:
    storage = MemoryStorage()
    shard = store(storage, "/shard", PAYLOADS)
    cache = Cache(tmp_path / "folder" / "cache", WINDOWS * shard.bytes)
    cache.check_fits([shard])
    assert not (tmp_path / "folder").exists()
    cache.open(storage, [shard])
    assert used(tmp_path / "folder" / "cache") == shard.bytes
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=f"{tmp_path / 'file'}: .*cache folder"):
        Cache(tmp_path / "file").open(storage, [shard])


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_raw_shard_is_counted_and_kept_uncompressed(tmp_path: Path, compress: type[bytes]) -> None:
    storage = MemoryStorage()
    content = b"".join(map(encode_record, PAYLOADS))
    info = storage.write("/raw", compress(content))
    shard, records = Cache(tmp_path).add(storage, RawShard("raw", "/raw", info.size, info.etag), "key")
    assert (shard.bytes, shard.examples, shard.sha256) == (len(content), 4, hashlib.sha256(content).hexdigest())
    assert [records[index] for index in range(4)] == PAYLOADS
    assert [path.read_bytes() for path in tmp_path.glob("*.t*")] == [content]


def test_a_damaged_compressed_shard_is_named(tmp_path: Path) -> None:
    storage = MemoryStorage()
    info = storage.write("/raw", gzip.compress(encode_record(b"text" * 100))[:-9])
    with pytest.raises(InputError, match="/raw: expected a complete compressed stream"):
        Cache(tmp_path).add(storage, RawShard("raw", "/raw", info.size, info.etag), "key")
    assert not list(tmp_path.glob("*.t*"))
