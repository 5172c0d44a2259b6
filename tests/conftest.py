"""Real servers for the tests that need them: started once for all, on 127.0.0.1 and free ports, and stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from demo.processes import Supervisor
    from demo.servers import MlflowServer, ObjectStore

BUCKETS = ("raw", "packed", "mlflow")

# Jobs in the background of a script ignore SIGINT, and so would the processes to which tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test fails for being slow: the machine may be busy.
hypothesis.settings.register_profile("stowage", deadline=None)
hypothesis.settings.load_profile("stowage")


@pytest.fixture(scope="session")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    from demo.processes import Supervisor

    with Supervisor(tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture(scope="session")
def object_store(supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """An rclone server with the buckets `raw`, `packed` and `mlflow`."""
    from demo.servers import start_object_store
    from demo.stack import plain_environment

    folder = tmp_path_factory.mktemp("objects")
    return start_object_store(supervisor, folder, BUCKETS, plain_environment(os.environ))


@pytest.fixture(scope="session")
def mlflow_server(
    supervisor: Supervisor, object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> MlflowServer:
    """An MLflow server that keeps its artifacts in the object store."""
    from demo.servers import start_mlflow
    from demo.stack import plain_environment

    folder = tmp_path_factory.mktemp("mlflow")
    return start_mlflow(supervisor, folder, object_store, plain_environment(os.environ))


@pytest.fixture
def aws_environment(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user exports to reach the object store."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
