from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from packing.errors import TrackingError, UsageError
from training.folders import held, local_folder, user_cache, work_folder


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "worker-0"
    with held(folder), pytest.raises(UsageError, match="another process works there"), held(folder, wait_seconds=0):
        pass
    with held(folder):
        assert folder.is_dir()


HOLDER = (
    "import sys, time; from pathlib import Path; from training.folders import held\n"
    "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
)


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=str(tmp_path)), held(tmp_path, wait_seconds=0):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with held(tmp_path):
        pass


def test_the_end_of_a_process_that_is_stopped_is_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        stop = threading.Timer(0.3, process.terminate)
        stop.start()
        with held(tmp_path):
            process.wait()
        stop.join()


def test_a_temporary_folder_goes_only_if_all_went_well(tmp_path: Path) -> None:
    folder = tmp_path / "compare"

    def lose_tracker() -> None:
        raise TrackingError("connection refused")

    with pytest.raises(TrackingError), held(folder, temporary=True):
        lose_tracker()
    assert folder.is_dir()
    with held(folder, temporary=True):
        (folder / "metrics").write_text("sent")
    assert not folder.exists()


def test_where_a_run_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert work_folder("/models/bert", 1) == Path("/models/bert/worker-1")
    first, second = work_folder("s3://models/a", 0), work_folder("s3://models/b", 0)
    assert first != second
    assert first.is_relative_to(tmp_path)
    assert first == work_folder("s3://models/a", 0)
    assert user_cache("a", "b") != user_cache("ab")
    with pytest.raises(UsageError, match="local folder"):
        local_folder("s3://models/a")
