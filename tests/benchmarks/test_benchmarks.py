"""The whole thing at tiny sizes, so that it runs when someone needs its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import PARTS
from benchmarks.measure import module, run
from benchmarks.settings import REPOSITORY
from packing.tfrecord import encode_record


@pytest.mark.exhaustive
def test_everything_is_measured_in_a_quick_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path), "--scratch", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout == (tmp_path / "results.md").read_text()
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert list(parts) == list(PARTS)
    assert all(part["targets"] for part in parts.values())
    first_local, again_local, first_s3, again_s3 = (row[-1] for row in parts["refresh"]["tables"][0]["rows"])
    assert first_local > 0
    assert first_s3 > 0
    assert (again_local, again_s3) == (0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md"]


@pytest.mark.slow
def test_tensorflow_copies_every_record(tmp_path: Path) -> None:
    folder = tmp_path / "ready"
    folder.mkdir()
    content = b"".join(encode_record(bytes([number]) * 100) for number in range(20))
    (folder / "part-00000.tfrecord").write_bytes(content)
    cost = run(module("record_copy", str(folder), str(tmp_path / "copy")), dict(os.environ))
    assert cost.result["records"] == 20
    assert (tmp_path / "copy").read_bytes() == content
