"""`packing run` stopped at any moment: nothing is left running, and the next run ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.builders import random_sizes, raw_shard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finding processes needs /proc"),
]

MARK = "STOWAGE_TEST_MARK"


def start(raw: Path, out: Path, mark: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "packing", "run", str(raw), str(out), "--workers", "2"]
    command += ["--max-sequence-length", "64", "--max-predictions-per-sequence", "10", "--partition-bytes", "60000"]
    environment = {**os.environ, MARK: mark}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def alive(mark: str) -> list[str]:
    return [str(path) for path in Path("/proc").glob("[0-9]*/environ") if f"{MARK}={mark}".encode() in content(path)]


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def packed(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted((out / "shards").rglob("part-*"))}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for number in range(40):
        (folder / f"part-{number}").write_bytes(raw_shard(random_sizes(60, seed=number), seed=number))
    return folder


@pytest.fixture(scope="module")
def undisturbed(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert start(raw, out, "undisturbed").wait(120) == 0
    return packed(out)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
@pytest.mark.parametrize("stage", ["scan", "solve"])
def test_stopped_and_run_again(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path, stage: str, number: signal.Signals, status: int
) -> None:
    mark = str(uuid.uuid4())
    process = start(raw, tmp_path, mark)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(stage):
            break
    process.send_signal(number)
    errors = process.stderr.read()
    assert process.wait(60) == status
    assert "Traceback" not in errors
    deadline = time.monotonic() + 20
    while (left := alive(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert not list(tmp_path.glob("manifests/*"))
    assert start(raw, tmp_path, mark).wait(120) == 0
    assert len(undisturbed) > 3
    assert packed(tmp_path) == undisturbed
