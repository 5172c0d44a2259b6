"""The real adapters, and the two functions that commands open them with."""

from __future__ import annotations

from typing import Any

from packing.adapters.routed import RoutedStorage
from packing.adapters.untracked import NullTracker
from packing.ports import Storage, Tracker

__all__ = ["NullTracker", "RoutedStorage", "open_storage", "open_tracker"]


def open_storage() -> Storage:
    """Local paths, and `s3://` by the standard AWS environment (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...)."""
    return RoutedStorage(_connect)


def _connect() -> Any:
    from packing.adapters.s3 import s3_client

    return s3_client()


def open_tracker(uri: str | None) -> Tracker:
    """The MLflow server at `uri`; without one, runs are not recorded."""
    if not uri:
        return NullTracker()
    from packing.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(uri)
