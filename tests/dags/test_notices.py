"""Who is told what: the configured notifiers, from an Airflow whose scheduler, triggerer and DAG processor run."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from demo.airflow import airflow_command, airflow_environment, set_password, start_airflow, wait_for_airflow
from demo.processes import Supervisor, free_port
from demo.stack import plain_environment
from demo.waiting import wait_until
from packing.errors import UsageError
from tests.dags.conftest import REPOSITORY
from tests.dags.recording import configured, sent

sys.path.insert(0, str(REPOSITORY / "plugins"))  # as Airflow does

from stowage_airflow.notices import (
    DATASET_REFRESHED,
    MODEL_TRAINED,
    RUN_FAILED,
    deadline_alerts,
    log_late_run,
    notifiers,
)

REFRESH = "refresh_packed_dataset"


def test_texts_are_filled_in_and_other_arguments_left(tmp_path: Path) -> None:
    for notice in (RUN_FAILED, DATASET_REFRESHED, MODEL_TRAINED):
        (notifier,) = notifiers(configured(tmp_path / "$sent"), notice)
        assert (notifier.title, notifier.text) == (notice.subject, notice.message)  # type: ignore[attr-defined] # of ours
        assert notifier.file == str(tmp_path / "$sent")  # type: ignore[attr-defined]


@pytest.mark.parametrize("targets", ["no json", "3", "[3]", "{}x", '[{"to": "a@example.org"}]'])
def test_targets_that_are_none_are_refused(targets: str) -> None:
    with pytest.raises(UsageError, match="STOWAGE_NOTIFY: expected a JSON list"):
        notifiers(targets, RUN_FAILED)


def test_nobody_is_told_unless_it_is_configured(tmp_path: Path) -> None:
    assert notifiers("", RUN_FAILED) == []
    assert deadline_alerts(configured(tmp_path / "sent"), None) == []
    (logged,) = deadline_alerts("", 90)
    assert logged.callback.path == f"{log_late_run.__module__}.log_late_run"
    (alert,) = deadline_alerts(configured(tmp_path / "sent"), 90)
    assert alert.interval == timedelta(minutes=90)
    assert alert.callback.path == "tests.dags.recording.FileNotifier"


@pytest.mark.exhaustive
def test_a_failed_run_and_a_late_one_are_told(supervisor: Supervisor, tmp_path: Path) -> None:
    file = tmp_path / "sent"
    (tmp_path / "raw").mkdir()
    environment = {
        **plain_environment(os.environ),
        **airflow_environment(tmp_path, REPOSITORY, free_port()),
        "PYTHONPATH": f"{REPOSITORY / 'plugins'}:{REPOSITORY}",
        "STOWAGE_SOURCE": str(tmp_path / "raw"),
        "STOWAGE_DESTINATION": str(tmp_path / "packed"),
        "STOWAGE_NOTIFY": configured(file),
        "STOWAGE_DEADLINE": "0.01",
    }
    subprocess.run(airflow_command("db", "migrate"), env=environment, check=True, capture_output=True)
    airflow = start_airflow(supervisor, environment, set_password(tmp_path))
    wait_for_airflow(supervisor, airflow)
    run_id = airflow.api.trigger(REFRESH, {})
    wait_until(lambda: len(sent(file)) == 2, "two notices", supervisor, 240)
    assert airflow.api.run_state(REFRESH, run_id) == "failed"
    for title, words in ((f"{REFRESH} failed", "clear that task"), (f"{REFRESH} is late", "has not ended by 20")):
        text = sent(file)[title]
        assert words in text
        assert f"{airflow.url}/dags/{REFRESH}/runs/{quote(run_id)}" in text
