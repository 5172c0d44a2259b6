"""How processes are measured; nothing here asserts how fast anything is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.measure import median_ratio, one_core, run, run_watched, take_turns
from benchmarks.plain import copy_locally

ENVIRONMENT = dict(os.environ)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_gives_the_json_of_its_last_line() -> None:
    cost = run(python("print('first'); print('{\"n\": 3}')"), ENVIRONMENT)
    assert cost.result == {"n": 3}
    assert cost.seconds > 0
    assert cost.cpu_seconds > 0


def test_cpu_time_includes_that_of_children_but_not_waiting() -> None:
    child = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('1')"
    assert run(python(code), ENVIRONMENT).cpu_seconds >= 0.3
    waiting = run(python("import time; time.sleep(0.5); print('1')"), ENVIRONMENT)
    assert waiting.cpu_seconds < waiting.seconds


def test_a_failing_command_is_an_error_with_its_last_words() -> None:
    with pytest.raises(RuntimeError, match=r"exit status 3\n.*alas"):
        run(python("import sys; sys.stderr.write('alas'); sys.exit(3)"), ENVIRONMENT)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_watching_sees_the_memory_of_grandchildren() -> None:
    size = 100_000_000
    child = f"import time; data = bytearray({size}); time.sleep(0.5)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('1')"
    _, memory = run_watched(python(code), ENVIRONMENT)
    assert size < memory.own < 2 * size
    assert memory.own <= memory.resident


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no call for it here")
def test_one_core_holds_for_children_and_ends_with_the_block() -> None:
    before = os.sched_getaffinity(0)
    with one_core():
        assert run(python("import os; print(len(os.sched_getaffinity(0)))"), ENVIRONMENT).result == 1
    assert os.sched_getaffinity(0) == before


def test_turns_alternate_in_order() -> None:
    called: list[str] = []
    results = take_turns(3, {name: lambda name=name: called.append(name) or len(called) for name in "ab"})
    assert "".join(called) == "abbaab"
    assert results == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_the_median_ratio_is_of_turns_not_of_medians() -> None:
    assert median_ratio([1, 8, 90], [1, 4, 10]) == 2


def test_a_plain_copy_writes_as_many_bytes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"x" * 3_000_000)
    sizes = [0, 1, 1024 * 1024, 2_500_000]
    assert copy_locally(source, sizes, tmp_path / "copy") > 0
    assert sorted(path.stat().st_size for path in (tmp_path / "copy").iterdir()) == sizes
