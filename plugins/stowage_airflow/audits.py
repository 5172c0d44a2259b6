"""The audit of a refresh: a packed dataset derived again from its raw data, in a process of its own, and on record."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from packing.errors import StowageError, TrackerRefusedError, TrackingError, UsageError
from stowage_airflow.connections import open_storage, open_tracker, task_errors
from stowage_airflow.stages import Group, key_to_sign_with

if TYPE_CHECKING:
    from packing.verify import Check

log = logging.getLogger(__name__)

RECORD_PAUSES = (3, 6, 12, 24, 48)
"""Seconds between the attempts to record an audit, those of the DAG's retries."""


def audit(
    committed: Mapping[str, str],
    groups: Sequence[Sequence[Group]],
    params: Mapping[str, Any],
    *,
    require_signature: bool = False,
) -> str:
    """Audit the packed dataset and add the report to its recipe's run; fails if the audit does.

    `groups` are the raw shards as the refresh listed them; what came later is told and fails nothing. With a key to
    sign with, the recipe has to be signed with it. Gives what was found in one line. What was found is in the task's
    log before MLflow is told, and a failed audit fails as such whether or not it could be recorded.
    """
    from packing.signing import check_signature
    from packing.uris import absolute
    from packing.verify import require

    source, manifest = absolute(params["source"]), committed["manifest"]
    listed = [shard["name"] for group in groups for shard in group]
    with task_errors():
        # First what takes no time and may have to be tried again.
        key = key_to_sign_with(required=require_signature)
        signature = [check_signature(open_storage(), manifest, key.public)] if key else []
        checks = [*_audit_process(manifest, source, listed), *signature]
        outcome = _outcome(checks)
        log.info("%s", "; ".join([outcome, *(check.detail for check in signature)]))
        untold = _record_patiently(committed["recipe_id"], checks, manifest, source)
        require(checks, "audited")
        if untold:
            refused = isinstance(untold, TrackerRefusedError)
            then = "give its user the permission" if refused else "once MLflow is back"
            raise (TrackerRefusedError if refused else TrackingError)(
                f"{manifest}: the audit passed, {outcome}, as this log says line by line, but its report could not be "
                f"added to the recipe's run: {untold}; {then}, then clear this task, which audits again"
            ) from untold
    return outcome


def _outcome(checks: Sequence[Check]) -> str:
    failed = [check.name for check in checks if not check.passed]
    if failed:
        return f"{len(failed)} of {len(checks)} lines fail: {', '.join(failed)}"
    return f"all {len(checks)} lines hold"


def _record_patiently(recipe_id: str, checks: Sequence[Check], manifest: str, source: str) -> StowageError | None:
    """Add the report to the recipe's run, and try that again for a while, as Airflow's retry would audit again.

    Gives the error that is left, or None.
    """
    untold: StowageError | None = None
    ended = datetime.now(timezone.utc)
    for pause in (0, *RECORD_PAUSES):
        time.sleep(pause)
        try:
            _record_audit(recipe_id, checks, manifest, source, ended)
        except StowageError as exc:
            log.warning("the audit's report is not in MLflow: %s", exc)
            untold = exc
        else:
            return None
        if isinstance(untold, TrackerRefusedError):
            break
    return untold


def _record_audit(recipe_id: str, checks: Sequence[Check], manifest: str, source: str, ended: datetime) -> None:
    from packing.audit.report import record_audit
    from packing.lineage import find_recipe_run

    tracker = open_tracker()
    if run := find_recipe_run(tracker, recipe_id, manifest):
        record_audit(tracker.open_run(run.run_id), checks, manifest=manifest, source=source, ended=ended)
    else:
        log.warning("recipe %s has no run in MLflow, so its audit is in this log only", recipe_id)


def _audit_process(manifest: str, source: str, listed: Sequence[str]) -> list[Check]:
    """Run `packing audit` on all processors: a task's worker processes could not ask Airflow for its connections."""
    from packing.errors import InputError, StorageError
    from packing.verify import Check
    from stowage_airflow.connections import store_environment
    from stowage_airflow.process import TaskProcess

    command = [sys.executable, "-m", "packing", "audit", manifest, "--source", source, "--json"]
    environment = store_environment() if "s3://" in manifest + source else {}
    with TemporaryDirectory(prefix="stowage-") as folder:
        names = Path(folder, "listed.json")
        names.write_text(json.dumps(listed))
        process = TaskProcess([*command, "--listed", str(names)], {**os.environ, **environment})
        status, result, message = process.run()
    checks = _parse(result).get("checks")
    if checks:
        return [Check(**check) for check in checks]
    error = StorageError if status not in (InputError.exit_status, UsageError.exit_status) else InputError
    raise error(f"the audit ended with status {status}: {message}")


def _parse(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}
