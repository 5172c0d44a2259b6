"""Airflow's connections as Stowage's adapters, and as the environment of a training process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from packing.errors import SecretError, StorageError, StowageError, TrackerRefusedError, TrackingError, UsageError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from packing.ports import Storage, Tracker
    from packing.signing import SigningKey

log = logging.getLogger(__name__)

AWS_CONNECTION = "aws_default"
MLFLOW_CONNECTION = "mlflow_default"
KUBERNETES_CONNECTION = "kubernetes_default"
SIGNING_CONNECTION = "stowage_signing"


def open_storage() -> Storage:
    """The store of `aws_default`; local paths work as well."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from packing.adapters import RoutedStorage
    from packing.adapters.s3 import client_config

    def connect() -> object:
        return S3Hook(aws_conn_id=AWS_CONNECTION, config=client_config()).conn

    return RoutedStorage(connect)


def open_tracker() -> Tracker:
    """The MLflow server of `mlflow_default`, as the user whom the connection names."""
    from packing.adapters import open_tracker as open_by_uri

    # MLflow's client knows no other way than its environment, but for a URL, which errors repeat.
    os.environ.update(mlflow_login())
    return open_by_uri(mlflow_uri())


def mlflow_uri() -> str:
    """The tracking server's URL, from the connection's type (http or https), host and port."""
    connection = _mlflow_connection()
    if not connection.host:
        raise TrackingError(f"connection {MLFLOW_CONNECTION}: expected a host, found none; set it in Airflow")
    port = f":{connection.port}" if connection.port else ""
    return f"{connection.schema or connection.conn_type}://{connection.host}{port}"


def mlflow_login() -> dict[str, str]:
    """The connection's login and password as MLflow's client reads them; nothing if it has none of both."""
    connection = _mlflow_connection()
    given = {"MLFLOW_TRACKING_USERNAME": connection.login, "MLFLOW_TRACKING_PASSWORD": connection.password}
    login = {name: value for name, value in given.items() if value}
    if len(login) == 1:
        raise TrackingError(f"connection {MLFLOW_CONNECTION}: expected a login and a password, found one of them only")
    return login


def _mlflow_connection() -> Connection:
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return Connection.get(MLFLOW_CONNECTION)
    except AirflowNotFoundException as exc:
        raise TrackingError(f"connection {MLFLOW_CONNECTION}: expected one, found none; set it in Airflow") from exc


def signing_key() -> SigningKey | None:
    """The key in the password of `stowage_signing`; without that connection nothing is signed."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    from packing.signing import SigningKey

    try:
        connection = Connection.get(SIGNING_CONNECTION)
    except AirflowNotFoundException:
        return None
    return SigningKey.from_pem((connection.password or "").encode(), f"connection {SIGNING_CONNECTION}: password")


def public_environment() -> dict[str, str]:
    """Where the store and MLflow are; no secrets."""
    return {**_store_address(), "MLFLOW_TRACKING_URI": mlflow_uri()}


def _store_address() -> dict[str, str]:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    hook = S3Hook(aws_conn_id=AWS_CONNECTION)
    values = {
        "AWS_ENDPOINT_URL": hook.conn_config.get_service_endpoint_url("s3"),
        "AWS_DEFAULT_REGION": hook.region_name,
    }
    return {name: value for name, value in values.items() if value}


def store_environment() -> dict[str, str]:
    """What a process needs to reach the store; secrets pass through its environment only."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    hook = S3Hook(aws_conn_id=AWS_CONNECTION)
    if hook.get_session().get_credentials() is None:
        raise StorageError(f"connection {AWS_CONNECTION}: expected credentials, found none; set them in Airflow")
    credentials = hook.get_credentials()
    values = {
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_SESSION_TOKEN": credentials.token,
    }
    return {**{name: value for name, value in values.items() if value}, **_store_address()}


def training_environment() -> dict[str, str]:
    """What a training process needs to reach the store and MLflow; secrets pass through its environment only."""
    return {**store_environment(), **mlflow_login(), **public_environment()}


def kubernetes_namespace() -> str:
    """The namespace of `kubernetes_default`, where a run does not say another."""
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = Connection.get(KUBERNETES_CONNECTION)
    except AirflowNotFoundException as exc:
        raise UsageError(f"connection {KUBERNETES_CONNECTION}: expected one, found none; set it in Airflow") from exc
    return connection.extra_dejson.get("namespace") or "default"


@contextmanager
def task_errors() -> Iterator[None]:
    """Fail at once where a retry would fail in the same way; let it retry what depends on servers that may be away.

    What to do is a line of the task's log. What led to it, such as a library's own errors, is there if it logs DEBUG.
    """
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    try:
        yield
    except StowageError as exc:
        log.error("%s", exc)  # noqa: TRY400 - the frames say nothing to whoever has to mend it
        log.debug("what led to it", exc_info=exc)
        passes = isinstance(exc, StorageError | TrackingError | SecretError)
        again = passes and not isinstance(exc, TrackerRefusedError)
        raise (AirflowException if again else AirflowFailException)(str(exc)) from None
