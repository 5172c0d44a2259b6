"""Measuring other processes: their time, their CPU time and their memory, on one core or taking turns."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.settings import REPOSITORY, say
from demo.processes import descendants

Result = TypeVar("Result")

_TAIL = 2000
_SECONDS_BETWEEN_SAMPLES = 0.02
_SIZES = {"VmHWM": "resident", "RssAnon": "own", "RssShmem": "own"}


@dataclass(frozen=True)
class Cost:
    """A finished process: wall seconds, CPU seconds (user + system, with its children's), the JSON it printed last."""

    seconds: float
    cpu_seconds: float
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Memory:
    """The largest of some processes, in bytes: all that was `resident`, and its `own` without mapped files."""

    resident: int
    own: int


def packing(*arguments: str) -> list[str]:
    """The command line of a command of Stowage, with its result as JSON."""
    return [sys.executable, "-m", "packing", *arguments, "--json"]


def module(name: str, *arguments: str) -> list[str]:
    """The command line of a module of the benchmarks."""
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def run(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a process to its end; its last line of output is one JSON object. Raises RuntimeError if it fails."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=output, stderr=errors)
        try:
            # The one call that tells the CPU time of this child alone, with that of the children it waited for.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            tail = errors.read().decode(errors="replace")[-_TAIL:]
            raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}\n{tail}")
        output.seek(0)
        result = json.loads(output.read().splitlines()[-1])
    return Cost(seconds, usage.ru_utime + usage.ru_stime, result)


def run_watched(command: Sequence[str], environment: Mapping[str, str]) -> tuple[Cost, Memory]:
    """Run a process and watch the memory of every process below this one until it ends."""
    foreign = frozenset(descendants(os.getpid()))
    peak: dict[str, int] = {"resident": 0, "own": 0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SECONDS_BETWEEN_SAMPLES):
            for pid in descendants(os.getpid(), foreign):
                for kind, size in _memory_of(pid).items():
                    peak[kind] = max(peak[kind], size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        cost = run(command, environment)
    finally:
        ended.set()
        watcher.join()
    return cost, Memory(**peak)


def _memory_of(pid: int) -> dict[str, int]:
    """Bytes from /proc/PID/status; a process that ended has none. (A child's `ru_maxrss` may be its parent's.)"""
    found: dict[str, int] = {}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return found
    for line in lines:
        name, _, value = line.partition(":")
        if name in _SIZES:
            found[_SIZES[name]] = found.get(_SIZES[name], 0) + int(value.split()[0]) * 1024
    return found


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and what it starts, on one core; does nothing where the system has no such call."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def take_turns(repeats: int, measures: Mapping[str, Callable[[], Result]]) -> dict[str, list[Result]]:
    """Call each of `measures` in turn, `repeats` times around, in the opposite order every other time."""
    results: dict[str, list[Result]] = {name: [] for name in measures}
    for turn in range(repeats):
        for name in list(measures)[:: -1 if turn % 2 else 1]:
            # What the one before left to be written must not slow this one down.
            os.sync()
            say(f"  {name} ({turn + 1} of {repeats})")
            results[name].append(measures[name]())
    return results


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the ratios within each turn."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def fresh(folder: Path) -> Path:
    """An empty folder in place of what was there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
