"""Who is told what: the configured notifiers, from an Airflow whose scheduler, triggerer and DAG processor run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from airflow.sdk import DAG

from demo.airflow import airflow_command, airflow_environment, set_password, start_airflow, wait_for_airflow
from demo.processes import Supervisor, free_port
from demo.stack import plain_environment
from demo.waiting import wait_until
from packing.errors import UsageError
from tests.builders import random_sizes, raw_shard
from tests.dags.conftest import REPOSITORY
from tests.dags.recording import configured, sent

sys.path.insert(0, str(REPOSITORY / "plugins"))  # as Airflow does

from stowage_airflow.notices import (
    APPROVAL_WANTED,
    DATASET_REFRESHED,
    MODEL_TRAINED,
    REFRESH_FAILED,
    TRAINING_FAILED,
    Notice,
    deadline_alerts,
    log_late_run,
    notifiers,
    notify_of_late_run,
)

REFRESH = "refresh_packed_dataset"


def test_texts_are_filled_in_and_other_arguments_left(tmp_path: Path) -> None:
    for notice in (REFRESH_FAILED, TRAINING_FAILED, APPROVAL_WANTED, DATASET_REFRESHED, MODEL_TRAINED):
        (notifier,) = notifiers(configured(tmp_path / "$sent"), notice)
        assert (notifier.title, notifier.text) == (notice.subject, notice.message)  # type: ignore[attr-defined] # of ours
        assert notifier.file == str(tmp_path / "$sent")  # type: ignore[attr-defined]


@pytest.mark.parametrize("targets", ["no json", "3", "[3]", "{}x", '[{"to": "a@example.org"}]'])
def test_targets_that_are_none_are_refused(targets: str) -> None:
    with pytest.raises(UsageError, match="STOWAGE_NOTIFY: expected a JSON list"):
        notifiers(targets, REFRESH_FAILED)


def test_nobody_is_told_unless_it_is_configured(tmp_path: Path) -> None:
    assert notifiers("", REFRESH_FAILED) == []
    assert deadline_alerts(configured(tmp_path / "sent"), None) == []
    (logged,) = deadline_alerts("", 90)
    assert logged.callback.path == f"{log_late_run.__module__}.log_late_run"
    (alert,) = deadline_alerts(configured(tmp_path / "sent"), 90)
    assert alert.interval == timedelta(minutes=90)
    assert alert.callback.path == f"{notify_of_late_run.__module__}.notify_of_late_run"
    assert alert.callback.kwargs["notifier"] == "tests.dags.recording.FileNotifier"


def told(file: Path, notice: Notice, **context: Any) -> tuple[str, str]:
    """Subject and text that are sent in this context."""
    for notify in notifiers(configured(file), notice):
        notify(context)
    ((subject, text),) = sent(file).items()
    return subject, text


def failed(task_id: str) -> dict[str, Any]:
    """What the DAG processor knows of a failed run; nothing of its task if there is none."""
    context: dict[str, Any] = {"dag": DAG(REFRESH), "run_id": "manual__1+00:00"}
    if task_id:
        context["ti"] = SimpleNamespace(task_id=task_id, log_url=f"http://airflow/tasks/{task_id}?try_number=2")
    return context


STILL, AGAIN = "What was current before it still is.", "then trigger the DAG again: what is done already is not"


@pytest.mark.parametrize("task_id", ["list_shards", "scan", "solve", "approve", "write", "commit", ""])
def test_a_failed_refresh_names_its_task_and_is_to_be_triggered_again(tmp_path: Path, task_id: str) -> None:
    """To clear a task keeps the run's options, and the versions of raw shards that it listed."""
    context = failed(task_id)
    subject, text = told(tmp_path / "sent", REFRESH_FAILED, **context)
    assert subject == (f"{REFRESH} failed: {task_id}" if task_id else f"{REFRESH} failed")
    assert STILL in text
    assert AGAIN in text
    assert "clear" not in text
    assert (f"in the task {task_id}, whose log says why: {context['ti'].log_url}. " in text) if task_id else True
    assert text.endswith(f"/dags/{REFRESH}/runs/manual__1%2B00%3A00")


def test_a_failed_audit_says_that_the_dataset_is_current(tmp_path: Path) -> None:
    _, text = told(tmp_path / "sent", REFRESH_FAILED, **failed("audit"))
    assert STILL not in text
    assert "The packed dataset was committed before and is the current one" in text
    assert "trigger the DAG again with Audit" in text


def test_a_failed_training_names_its_task_and_goes_on_when_that_is_cleared(tmp_path: Path) -> None:
    subject, text = told(tmp_path / "sent", TRAINING_FAILED, **failed("train"))
    assert subject.endswith(" failed: train")
    assert "http://airflow/tasks/train?try_number=2" in text
    assert "clear that task" in text
    assert STILL not in text


def test_whoever_is_to_approve_is_told_why_and_where(tmp_path: Path) -> None:
    task = SimpleNamespace(body="It differs: sequences kept.\n\n| table |", response_timeout=timedelta(days=7))
    subject, text = told(tmp_path / "sent", APPROVAL_WANTED, **failed("approve"), task=task)
    assert subject == f"{REFRESH} waits for an approval"
    assert text.startswith("It differs: sequences kept. Approve or reject it within 7 days; ")
    assert text.endswith("/runs/manual__1%2B00%3A00/tasks/approve/required_actions")
    assert "table" not in text


@pytest.mark.parametrize("state", ["queued", "running", "failed", "success"])
def test_only_a_run_that_goes_on_is_late(tmp_path: Path, caplog: pytest.LogCaptureFixture, state: str) -> None:
    """Airflow forgets the deadlines of runs that succeed, and keeps those of runs that fail."""
    run = {"dag_id": REFRESH, "dag_run_id": "manual__1", "state": state}
    context = {"dag_run": run, "deadline": {"id": "1", "deadline_time": "2026-03-01 12:00"}}
    file = tmp_path / "sent"
    (alert,) = deadline_alerts(configured(file), 90)
    asyncio.run(notify_of_late_run(context=context, **alert.callback.kwargs))
    asyncio.run(log_late_run(context))
    goes_on = state in ("queued", "running")
    assert list(sent(file)) == ([f"{REFRESH} is late"] if goes_on else [])
    assert ("has not ended by 2026-03-01 12:00" in caplog.text) == goes_on


@pytest.mark.exhaustive
def test_a_failed_run_and_a_late_one_are_told(supervisor: Supervisor, tmp_path: Path) -> None:
    """The first fails long before the deadline, the second waits for a pool that does not exist."""
    file = tmp_path / "sent"
    (tmp_path / "raw").mkdir()
    environment = {
        **plain_environment(os.environ),
        **airflow_environment(tmp_path, REPOSITORY, free_port()),
        "PYTHONPATH": f"{REPOSITORY / 'plugins'}:{REPOSITORY}",
        "STOWAGE_SOURCE": str(tmp_path / "raw"),
        "STOWAGE_DESTINATION": str(tmp_path / "packed"),
        "STOWAGE_STORE_POOL": "missing",
        "STOWAGE_NOTIFY": configured(file),
        "STOWAGE_DEADLINE": "1",
    }
    subprocess.run(airflow_command("db", "migrate"), env=environment, check=True, capture_output=True)
    airflow = start_airflow(supervisor, environment, set_password(tmp_path))
    wait_for_airflow(supervisor, airflow)

    def wait_for(count: int) -> None:
        wait_until(lambda: len(sent(file)) == count, f"{count} notices", supervisor, 240)

    early = airflow.api.trigger(REFRESH, {})
    wait_for(1)
    assert airflow.api.run_state(REFRESH, early) == "failed"
    (tmp_path / "raw" / "part-0").write_bytes(raw_shard(random_sizes(5, seed=0), seed=0))
    late = airflow.api.trigger(REFRESH, {})
    wait_for(2)
    for run_id, title, words in (
        (early, f"{REFRESH} failed: list_shards", "in the task list_shards, whose log says why: "),
        (late, f"{REFRESH} is late", "has not ended by 20"),
    ):
        text = sent(file)[title]
        assert words in text
        assert f"{airflow.url}/dags/{REFRESH}/runs/{quote(run_id)}" in text
    assert len(file.read_text().splitlines()) == 2, "the first run's deadline passed before, and nobody was told"
