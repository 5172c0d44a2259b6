"""Training in processes of its own, all of which are ended when a test is, whatever happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from packing.adapters.local import LocalStorage
from tests.training.packs import MODEL, write_dataset

REPOSITORY = Path(__file__).parents[2]

Process = subprocess.Popen[str]
Metrics = dict[str, dict[int, float]]
"""Values by key and step."""


class Processes:
    """Starts processes within a `with`; after `seconds` all of them are killed, so that what reads from them ends."""

    def __init__(self, seconds: float) -> None:
        self._running: list[Process] = []
        self._watchdog = threading.Timer(seconds, self._kill)

    def __enter__(self) -> Processes:
        self._watchdog.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._watchdog.cancel()
        self._kill()
        for process in self._running:
            process.communicate()

    def start(self, module: str, *arguments: str, python: str = sys.executable, tf_config: str = "") -> Process:
        """A process that runs a module of the tests; its output and its messages are one pipe."""
        environment = {**os.environ, "TF_CONFIG": tf_config}
        command = [python, "-m", f"tests.training.{module}", *arguments]
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._running.append(process)
        return process

    def _kill(self) -> None:
        for process in self._running:
            process.kill()


def write_training_data(folder: Path) -> list[str]:
    """The small random dataset and its model on disk; gives the arguments of `train` for them."""
    manifest, raw = write_dataset(LocalStorage(), str(folder / "data"))
    model = folder / "bert_config.json"
    model.write_text(json.dumps(asdict(MODEL)))
    return [
        "train",
        "--data",
        manifest,
        "--eval-data",
        raw,
        "--model",
        str(model),
        "--log-every",
        "1",
        "--tracking-uri",
        "stdout",
    ]


def read_metrics(process: Process, *, until: int | None = None) -> Metrics:
    """What `tests.training.printing` prints to its end, or until it says that step `until` is done."""
    metrics: Metrics = {}
    for line in process.stdout or ():
        if line.startswith("["):
            key, step, value = json.loads(line)
            metrics.setdefault(key, {})[step] = value
            continue
        sys.stdout.write(line)
        done = re.match(r"step (\d+)  sequences", line)
        if until is not None and done and int(done[1]) >= until:
            break
    return metrics


def read_losses(process: Process, *, until: int | None = None) -> dict[int, float]:
    """The MLM loss of each step, as `read_metrics`."""
    return read_metrics(process, until=until).get("loss/mlm", {})
