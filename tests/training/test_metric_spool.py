from __future__ import annotations

import math
import resource
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.errors import StorageError, UsageError
from packing.ports import Metric
from training.spool import Spool

numbers = st.integers(0, 2**40)
metrics = st.lists(st.builds(Metric, st.text(), st.floats(allow_nan=False), numbers, numbers), max_size=5)


def metric(step: int) -> Metric:
    return Metric("loss/mlm", step / 3, step, 1_700_000_000_000 + step)


def drain(spool: Spool, limit: int = 1000) -> list[Metric]:
    """Take and count as delivered until nothing is left."""
    found = []
    while not spool.empty:
        batch, end = spool.take(limit)
        found += batch
        spool.delivered(end)
    return found


@given(st.lists(st.one_of(metrics, st.integers(1, 4), st.just("reopened")), max_size=20))
def test_what_is_added_is_taken_once_and_in_order_whenever_the_process_ends(events: list[object]) -> None:
    added: list[Metric] = []
    delivered: list[Metric] = []
    with TemporaryDirectory() as folder:
        spool = Spool(Path(folder, "run.jsonl"))
        for event in events:
            if isinstance(event, list):
                spool.add(event)
                added += event
            elif isinstance(event, int):
                batch, end = spool.take(event)
                assert len(batch) <= event
                delivered += batch
                spool.delivered(end)
            else:
                spool.close()
                spool = Spool(Path(folder, "run.jsonl"))
            assert spool.empty == (delivered == added)
        assert delivered + drain(spool) == added
        assert spool.path.stat().st_size == 0
        spool.close()


def test_what_was_delivered_but_not_counted_is_taken_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run.jsonl")
    spool.add(map(metric, range(10)))
    spool.delivered(spool.take(3)[1])
    spool.take(3)
    spool.close()
    assert drain(Spool(tmp_path / "run.jsonl"), 4) == [metric(step) for step in range(3, 10)]


def test_a_line_torn_by_a_kill_is_dropped_wherever_it_is_torn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.jsonl"
    spool = Spool(path)
    spool.add(map(metric, range(3)))
    spool.close()
    content = path.read_bytes()
    for size in range(len(content) + 1):
        caplog.clear()
        path.write_bytes(content[:size])
        spool = Spool(path)
        whole = content[:size].count(b"\n")
        assert bool(caplog.records) == (size > 0 and content[size - 1 : size] != b"\n")
        spool.add([metric(9)])
        assert drain(spool) == [*map(metric, range(whole)), metric(9)]
        spool.close()
    assert whole == 3


def test_a_kill_between_emptying_the_file_and_counting_it_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    (tmp_path / "run.delivered").write_text("40")
    for step in range(3):
        spool = Spool(path)
        spool.add([metric(step)])
        spool.close()
    assert drain(Spool(path)) == list(map(metric, range(3)))


def test_damage_costs_only_the_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.jsonl"
    spool = Spool(path)
    spool.add(map(metric, range(2)))
    spool.close()
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = [b'["a", 1.0]\n', b"{}\n", b"\xff\n", b"\0" * 3_000_000 + b"\n"]
    path.write_bytes(lines[0] + b"".join(damaged) + lines[1])
    (tmp_path / "run.delivered").write_text("no number")
    assert drain(Spool(path)) == [metric(0), metric(1)]
    assert len(caplog.records) >= len(damaged)
    assert str(path) in caplog.text


def test_a_loss_that_is_no_number_is_kept_as_it_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run.jsonl")
    spool.add(Metric("loss", value, 1, 1) for value in (math.nan, math.inf, -math.inf))
    first, *others = [found.value for found in drain(spool)]
    assert math.isnan(first)
    assert others == [math.inf, -math.inf]


def test_one_process_has_it_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    spool = Spool(path)
    spool.add([metric(1)])
    with pytest.raises(UsageError, match=f"{path}: another process"):
        Spool(path)
    _, end = spool.take(1)
    spool.close()
    successor = Spool(path)
    spool.delivered(end)
    assert drain(successor) == [metric(1)]


def test_a_place_that_takes_nothing_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"{tmp_path}/file/run.jsonl: metrics cannot be kept"):
        Spool(tmp_path / "file/run.jsonl")


@pytest.mark.parametrize("room", [0, 20])
def test_a_full_disk_is_an_error_and_tears_nothing(tmp_path: Path, room: int) -> None:
    """A limit on the size of files stands for the end of the disk."""
    path = tmp_path / "run.jsonl"
    spool = Spool(path)
    spool.add(map(metric, range(1000)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
    try:
        with pytest.raises(StorageError, match=f"{path}: .*free space"):
            spool.add([metric(1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    spool.add([metric(1000)])
    assert drain(spool) == list(map(metric, range(1001)))
