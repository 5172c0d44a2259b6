"""Training with nothing but what the GPU image's lock has, as far as an environment with more can show it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from demo.servers import MlflowServer
from tests.docker.images import DOCKER, REPOSITORY, pins

RUN = """
import sys
from importlib.metadata import packages_distributions

locked = {"stowage", *sys.argv[1].split(",")}
owners = packages_distributions().items()
hidden = {module for module, names in owners if not locked & {name.lower().replace("_", "-") for name in names}}
assert {"pandas", "flask", "airflow", "numba"} <= hidden

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hiding, sys.meta_path)
from training.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_devices_differ_by_tensorflow_alone() -> None:
    groups = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]
    (tensorflow,) = set(groups["gpu"]) - set(groups["gaudi"])
    assert tensorflow.startswith("tensorflow[and-cuda]")
    assert set(groups["gaudi"]) < set(groups["gpu"])


@pytest.mark.exhaustive
def test_the_lock_suffices_to_train_and_to_track(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    from packing.adapters import open_storage
    from tests.training.packs import VOCABULARY, write_dataset

    manifest, _ = write_dataset(open_storage(), str(tmp_path / "data"))
    locked = ",".join(pins(DOCKER / "gpu.lock"))
    options = {
        "data": manifest,
        "model-dir": tmp_path / "model",
        "model": "tiny",
        "vocab-size": VOCABULARY,
        "steps": 2,
        "sequences-per-step": 4,
        "tracking-uri": mlflow_server.url,
        "cache-dir": tmp_path / "cache",
    }
    arguments = ["train", "--json", *(f"--{name}={value}" for name, value in options.items())]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, locked, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 2
