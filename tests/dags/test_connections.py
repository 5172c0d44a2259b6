"""Connections as the environment of what talks to the services."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER = {"conn_type": "https", "host": "mlflow.example.org"}
ASK = """
import json
from packing.errors import TrackingError
from stowage_airflow.connections import mlflow_login, mlflow_uri
try:
    print(json.dumps([mlflow_uri(), mlflow_login()]))
except TrackingError as exc:
    print(json.dumps(str(exc)))
"""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"login": "me", "password": "CANARY"}, {"USERNAME": "me", "PASSWORD": "CANARY"}),
        ({"login": "me"}, None),
        ({"password": "CANARY"}, None),
    ],
)
def test_mlflow_s_user_is_the_connection_s_and_no_part_of_the_url(
    given: dict[str, str], expected: dict[str, str] | None, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({**SERVER, **given}),
        "AIRFLOW_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "plugins"), str(REPOSITORY)]),
    }
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    if expected is None:
        assert answer == "connection mlflow_default: expected a login and a password, found one of them only"
    else:
        login = {f"MLFLOW_TRACKING_{name}": value for name, value in expected.items()}
        assert answer == ["https://mlflow.example.org", login]
