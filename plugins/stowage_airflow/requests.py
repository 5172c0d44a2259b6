"""What a DAG run was asked to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from packing.errors import UsageError


def check_options(conf: Mapping[str, Any] | None, allowed: Iterable[str]) -> None:
    """Refuse options of a run's conf that the DAG does not have; Airflow silently takes them for more params."""
    known = sorted(allowed)
    if unknown := sorted(set(conf or {}) - set(known)):
        raise UsageError(f"unknown options {', '.join(unknown)}; expected some of {', '.join(known)}")


def skip_unless_asked(params: Mapping[str, Any], name: str) -> None:
    """Skip a task that only runs if the form asks for it."""
    from airflow.sdk.exceptions import AirflowSkipException

    if not params[name]:
        raise AirflowSkipException(f"{name}: not asked for")


def choose_manifest(params: Mapping[str, Any], events: Mapping[Any, Iterable[Any]] | None) -> dict[str, str]:
    """`manifest` as named by hand, or else by the newest of the asset's events that started the run, and `model_dir`.

    Several events may have been coalesced into one run; the newest version supersedes the others.
    """
    from packing.uris import absolute

    newest = max(
        (event for found in (events or {}).values() for event in found), key=lambda e: e.timestamp, default=None
    )
    manifest = params["data"] or (newest.extra.get("manifest") if newest else None)
    if not manifest:
        raise UsageError("data: expected the URI of a manifest, got nothing and no asset event; fill it in")
    if not params["model_dir"]:
        raise UsageError("model_dir: expected a folder, got nothing; fill it in or set STOWAGE_TRAIN_MODEL_DIR")
    version = manifest.rsplit("/", 1)[-1].removesuffix(".json")[:12]
    return {"manifest": absolute(manifest), "model_dir": f"{params['model_dir'].rstrip('/')}/{version}"}


def asks_for_comparison(params: Mapping[str, Any]) -> bool:
    """Whether to compare packs with `compare`, for which the raw data must be named."""
    if params["compare"] == "no":
        return False
    if not params["raw"]:
        raise UsageError("raw: expected the raw shards that the manifest packs, got nothing; fill it in")
    return True
