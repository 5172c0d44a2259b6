"""`python -m demo run | up`, which `make demo` and `make up` call."""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from demo.display import Display
from demo.errors import DemoError
from demo.figures import collect_figures, figures_table
from demo.flow import refresh_and_train
from demo.mlflow_api import MlflowApi
from demo.processes import Supervisor
from demo.raw_data import load_raw_data, raw_data_folder, upload
from demo.stack import DESTINATION, HELD_OUT, REPOSITORY, SOURCE, TRAINING, Stack, plain_environment, start_stack
from packing.errors import StowageError
from packing.ports import Storage

COMPARED_STEPS = 12
NEEDED = ("airflow", "boto3", "mlflow", "tensorflow", "tokenizers")


@dataclass(frozen=True)
class Layout:
    """Where the demo keeps what: `state` of the services, `raw` data that later runs use again, `logs`."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def complete(self) -> Path:
        """Exists if the state is that of a run that went through to its end."""
        return self.state / "complete"

    def object_path(self, uri: str) -> Path:
        """The file in which the object store keeps an object."""
        return self.state / "objects" / uri.removeprefix("s3://")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status says whether every step of it worked."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Stowage on this machine.")
    parser.add_argument("command", choices=("run", "up"), help="the whole job once; or the services until Ctrl-C")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".demo", help="all state [.demo]")
    options = parser.parse_args(arguments)
    layout = Layout(options.folder.absolute())
    try:
        check_installed()
        with only_one(layout.folder):
            shutil.rmtree(layout.logs, ignore_errors=True)
            {"run": run, "up": up}[options.command](layout)
    except StowageError as exc:
        sys.stderr.write(f"error: {exc}\nlogs: {layout.logs}\n")
        return exc.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing is left running\n")
        return 130
    return 0


def run(layout: Layout) -> None:
    """The whole job from fresh state, its figures, and nothing left running."""
    started = time.monotonic()
    shutil.rmtree(layout.state, ignore_errors=True)
    with supervised(layout) as supervisor, Display() as display:
        stack = start(layout, supervisor, display)
        refresh_run = refresh_and_train(stack.airflow.api, supervisor, display)
        figures = collect_figures(stack.storage, MlflowApi(stack.mlflow.url), DESTINATION, refresh_run)
        with display.step("packed against padded") as step:
            comparison = compare_with_padded(supervisor, stack, figures.manifest_uri)
            display.update(step, f"{comparison['speedup']:.2f}x sequences/s")
    layout.complete.touch()
    console = Console(highlight=False, soft_wrap=True)
    console.print(figures_table(figures, comparison))
    console.print(f"Done in {time.monotonic() - started:.0f} s. Where to look:")
    console.print("  make up   the same services in the browser, with this run in Airflow and MLflow")
    console.print(f"  recipe    {layout.object_path(figures.recipe_uri)}")
    console.print(f"  manifest  {layout.object_path(figures.manifest_uri)}")
    console.print(f"  MLflow    runs {figures.recipe_run} (recipe) and {figures.training_run} (training)")
    console.print(f"  logs      {layout.logs}")


def up(layout: Layout) -> None:
    """The services until Ctrl-C, with what the last complete run left, or else only raw data to pack."""
    if not layout.complete.exists():
        shutil.rmtree(layout.state, ignore_errors=True)
    with supervised(layout) as supervisor:
        with Display() as display:
            stack = start(layout, supervisor, display)
        airflow, store = stack.airflow, stack.store
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"Airflow       {airflow.url}  user {airflow.user}, password {airflow.password}")
        console.print(f"MLflow        {stack.mlflow.url}")
        console.print(f"object store  {store.endpoint_url}  key {store.access_key}, secret {store.secret_key}")
        console.print(
            f"Raw shards are below {SOURCE}. Trigger refresh_packed_dataset in Airflow. Ctrl-C stops everything."
        )
        while True:
            supervisor.check()
            time.sleep(1)


def start(layout: Layout, supervisor: Supervisor, display: Display) -> Stack:
    """All services, with raw data in the object store; the data is made while they start."""
    folder = raw_data_folder(layout.raw)
    making = None
    if load_raw_data(folder) is None:
        command = [sys.executable, "-m", "demo.raw_data", str(folder)]
        making = supervisor.start_job("raw data", command, plain_environment(os.environ))

    def bring_data(storage: Storage) -> None:
        with display.step("raw data", "from docstrings on this machine") as step:
            if making:
                making.wait()
            data = load_raw_data(folder)
            if data is None:
                raise DemoError(f"{folder}: expected complete raw data, found none; remove {layout.raw} and run again")
            upload(storage, data.held_out, HELD_OUT)
            size = upload(storage, data.train, SOURCE)
            display.update(
                step, f"{data.sequences:,} sequences of {data.mean_length:.0f} tokens on average, {size:,} bytes"
            )

    return start_stack(supervisor, display, layout.state, bring_data)


def compare_with_padded(supervisor: Supervisor, stack: Stack, manifest: str) -> dict[str, Any]:
    """Steps on packs and on padded sequences, side by side in a process of its own."""
    options = {
        "--data": manifest,
        "--raw": SOURCE,
        "--steps": str(COMPARED_STEPS),
        "--sequences-per-step": "16",
        "--tracking-uri": stack.mlflow.url,
        "--model": TRAINING["MODEL"],
        "--vocab-size": TRAINING["VOCAB_SIZE"],
    }
    command = [
        sys.executable,
        "-m",
        "training",
        "compare",
        "--json",
        *(text for pair in options.items() for text in pair),
    ]
    job = supervisor.start_job("compare", command, stack.environment)
    job.wait()
    return dict(json.loads(job.log.read_text(encoding="utf-8").splitlines()[-1]))


def check_installed() -> None:
    """Refuse to begin with half an installation."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(f"not installed: {', '.join(missing)}; remove {Path(sys.prefix)} and run `make demo`")


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Refuse to share the folder with another demo; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise DemoError(f"another `make demo` or `make up` is running in {folder}; stop it first") from exc
        yield


@contextmanager
def supervised(layout: Layout) -> Iterator[Supervisor]:
    """A supervisor that says when it stops the processes, as that takes some seconds."""
    with Supervisor(layout.logs) as supervisor:
        try:
            yield supervisor
        finally:
            sys.stderr.write("stopping everything\n")


if __name__ == "__main__":
    sys.exit(main())
