"""Many items at a time: the order of results, the first error, and what becomes of the workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from packing.adapters.local import LocalStorage
from packing.errors import InputError, StowageError
from packing.in_memory import MemoryStorage
from packing.parallel import StageMap, process_pool, serial, threads
from packing.ports import Storage

WAIT = 60


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def square(_: Storage, number: int) -> int:
    return number * number


def own_pid(_: Storage, __: object) -> int:
    return os.getpid()


def work_on(storage: Storage, item: str) -> None:
    """What an item's name says, in a folder: the last part of the name."""
    folder, task = Path(item).parent, Path(item).name
    (folder / f"pid-{os.getpid()}").touch()
    if task == "fail":
        wait_until((folder / "ready").exists)
        raise InputError("failed on purpose")
    if task == "deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        storage.write(f"{folder}/written", bytes(3_000_000))
        (folder / "ready").touch()


def pids(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


@pytest.fixture(params=["serial", "threads", "processes"])
def stage_map(request: pytest.FixtureRequest) -> Iterator[StageMap]:
    if request.param == "processes":
        with process_pool(2, LocalStorage) as pool:
            yield pool
    else:
        yield serial(MemoryStorage()) if request.param == "serial" else threads(MemoryStorage(), 4)


def test_results_come_in_the_order_of_the_items(stage_map: StageMap) -> None:
    for items in (range(100), [], [5]):
        assert list(stage_map(square, items)) == [number * number for number in items]


def test_threads_work_side_by_side_and_the_order_stays() -> None:
    barrier = threading.Barrier(3)
    released = [threading.Event() for _ in range(4)]
    released[3].set()

    def backwards(_: Storage, number: int) -> int:
        barrier.wait(WAIT)
        assert released[number + 1].wait(WAIT)
        released[number].set()
        return number

    assert list(threads(MemoryStorage(), 3)(backwards, range(3))) == [0, 1, 2]


def test_after_an_error_threads_begin_nothing_else() -> None:
    begun = []

    def fail(_: Storage, number: int) -> None:
        begun.append(number)
        if number == 2:
            raise InputError("failed on purpose")
        time.sleep(0.005)

    with pytest.raises(InputError, match="on purpose"):
        list(threads(MemoryStorage(), 2)(fail, range(1000)))
    assert 2 in begun
    assert len(begun) < 1000


def test_processes_start_when_there_are_items_and_no_more_than_items() -> None:
    before = set(multiprocessing.active_children())
    with process_pool(4, LocalStorage) as stage_map:
        assert list(stage_map(square, [])) == []
        assert set(multiprocessing.active_children()) == before
        (first,) = stage_map(own_pid, [0])
        assert len(set(multiprocessing.active_children()) - before) == 1
        assert list(stage_map(own_pid, [0])) == [first]
    assert set(multiprocessing.active_children()) == before


@pytest.mark.parametrize("order", [["go on", "fail"], ["fail", "go on"], ["deaf", "fail"]])
def test_an_error_ends_the_workers_at_once_and_they_clean_up(tmp_path: Path, order: Sequence[str]) -> None:
    bystander = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    bystander.start()
    try:
        items = [str(tmp_path / task) for task in order]
        with pytest.raises(InputError, match="on purpose"), process_pool(2, LocalStorage) as stage_map:
            list(stage_map(work_on, items))
        assert len(pids(tmp_path)) == 2
        assert not any(map(is_alive, pids(tmp_path)))
        assert bystander.is_alive()
    finally:
        bystander.kill()
        bystander.join()
    if "deaf" not in order:
        assert not list(tmp_path.glob(".stowage-*"))
    assert len((tmp_path / "written").read_bytes()) == 3_000_000


def test_a_worker_that_is_killed_is_a_clear_error(tmp_path: Path) -> None:
    def kill() -> None:
        wait_until((tmp_path / "ready").exists)
        os.kill(pids(tmp_path)[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(StowageError, match="a worker process died"), process_pool(2, LocalStorage) as stage_map:
        list(stage_map(work_on, [str(tmp_path / "go on")]))
    killer.join()


PARENT = """
import signal, sys
from packing.adapters.local import LocalStorage
from packing.parallel import process_pool
from tests.packing.test_parallel import work_on

def end(number, _):
    raise SystemExit(128 + number)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    with process_pool(2, LocalStorage) as stage_map:
        list(stage_map(work_on, sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent_and_none_leaves_half_a_file(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(tmp_path / "go on"), str(tmp_path / "go on")]
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "ready").exists() and len(pids(tmp_path)) == 2)
    parent.send_signal(number)
    assert parent.wait(WAIT) != 0
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))
    assert not list(tmp_path.glob(".stowage-*"))
