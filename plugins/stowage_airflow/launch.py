"""What a training task asks of a cluster: its form's fields as manifests, under a name that a retry finds again."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from packing.errors import UsageError
from packing.jsonio import digest
from training.launchers.config import LaunchConfig
from training.launchers.kubernetes import Manifest
from training.launchers.options import LAUNCHERS, add_launch_options, launch_config

LOCAL = "local"

LEAST_TTL = 600
"""Seconds that a Job has to stay after its end, as its task learns from it how it ended."""

_DECIDED = ("--launcher", "--name", "--workers")
"""What follows from the task and its own fields, and other things follow from it."""
_READABLE = 40
"""Characters of a Job's name that people read; the rest tells runs apart."""


@dataclass(frozen=True)
class TaskKey:
    """The task of a DAG run that launches; its tries share it, as they share the model folder."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int = -1

    @property
    def job_name(self) -> str:
        """The same for all tries, different for all other tasks."""
        words = re.sub(r"[^a-z0-9]+", "-", f"stowage-{self.dag_id}-{self.task_id}".lower())
        key = digest([self.dag_id, self.task_id, self.run_id, self.map_index])
        return f"{words[:_READABLE].strip('-')}-{key[:12]}"

    @property
    def labels(self) -> dict[str, str]:
        """By which people find a Job, under the provider's names and cut to what a label may hold."""
        values = {"dag_id": self.dag_id, "task_id": self.task_id, "run_id": self.run_id}
        if self.map_index >= 0:
            values["map_index"] = str(self.map_index)
        return {name: re.sub(r"[^-._A-Za-z0-9]+", "-", value)[:63].strip("-._") for name, value in values.items()}


@dataclass(frozen=True)
class Launch:
    """What is sent to a cluster: a Job, and a Service if several workers have to meet."""

    config: LaunchConfig
    job: Manifest
    service: Manifest | None


def strategy(launcher: str, workers: int) -> str | None:
    """The `--strategy` that follows from where a run is launched; None leaves the choice to the user."""
    if launcher == LOCAL:
        return "multi-worker" if workers > 1 else None
    return LAUNCHERS[launcher].strategies[workers > 1]


def workers_of(fields: Mapping[str, Any]) -> int:
    """How many a form's fields ask for; raises UsageError for what is no such number."""
    given = fields.get("workers") or 1
    if not str(given).isdecimal():
        raise UsageError(f"workers: expected an integer from 1, got {given!r}")
    return int(given)


def check_launcher(launcher: str) -> None:
    """Raise UsageError for a launcher that there is not."""
    if launcher not in (LOCAL, *LAUNCHERS):
        raise UsageError(f"launcher: expected one of {', '.join((LOCAL, *LAUNCHERS))}, got {launcher!r}")


def plan_launch(
    launcher: str,
    fields: Mapping[str, Any],
    command: Sequence[str],
    *,
    key: TaskKey,
    environment: Mapping[str, str],
) -> Launch:
    """The manifests of `command`, launched as `fields` say: options of `python -m training render` by name.

    `launch_options` among the fields has further ones as text. `environment` gives variables that the options do not;
    none of them may be a secret. Raises UsageError, without repeating values, for options that cannot work.
    """
    given = {**fields}
    more = _split(given.pop("launch_options", None) or "")
    if decided := [flag for flag in (text.partition("=")[0] for text in more) if flag in _DECIDED]:
        raise UsageError(f"launch options: {decided[0]} is the task's to say; expected others")
    arguments = ["--launcher", launcher, *as_arguments(given), "--name", key.job_name, *more]
    for name, value in key.labels.items():
        arguments += ["--label", f"{name}={value}"]
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        flags = [text.partition("=")[0] for text in unknown if text.startswith("-")]
        raise UsageError(
            f"launch options: expected those of `python -m training render`, got {', '.join(flags) or 'more'}"
        )
    chosen = {text.partition("=")[0] for text in (*options.env, *options.secret_env)}
    options.env += [f"{name}={value}" for name, value in environment.items() if name not in chosen]
    config = launch_config(options)
    if config.ttl_seconds_after_finished < LEAST_TTL:
        raise UsageError(
            f"ttl_seconds_after_finished: expected at least {LEAST_TTL}, for the task to see how the Job has ended, "
            f"got {config.ttl_seconds_after_finished}"
        )
    *services, job = LAUNCHERS[launcher].manifests(config, command)
    return Launch(config, job, services[0] if services else None)


def owned(manifest: Manifest, job: Manifest) -> Manifest:
    """`manifest` as Kubernetes removes it together with `job`, which has been created."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [owner]}}


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Command-line options: True is a flag, False and None are left out."""
    arguments = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False and value != "":
            arguments += [flag, str(value)]
    return arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"launch options: {message}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    add_launch_options(parser)
    return parser


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise UsageError(f"launch options: expected words as in a shell ({exc})") from exc
