"""What an audit found, as a document and as a page, and both in the tracker beside the recipe that was audited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from packing.jsonio import pretty
from packing.ports import Run
from packing.report.markdown import plain
from packing.verify import Check

AUDIT = "stowage.audit"


def record_audit(run: Run, checks: Sequence[Check], *, manifest: str, source: str, ended: datetime) -> None:
    """Add the report of an audit that `ended` then, in UTC, to the recipe's run; the newest has a second place."""
    report = {
        "report.json": report_bytes(checks, manifest, source, ended),
        "report.md": report_markdown(checks, manifest, source, ended).encode(),
    }
    folders = ("audit", f"audit/{ended:%Y-%m-%dT%H.%M.%SZ}")
    run.log_artifacts({f"{folder}/{name}": content for folder in folders for name, content in report.items()})
    run.set_tags({AUDIT: _outcome(checks)})


def report_bytes(checks: Sequence[Check], manifest: str, source: str, ended: datetime) -> bytes:
    """The report for programs."""
    facts = {"manifest": manifest, "source": source, "ended": f"{ended:%Y-%m-%dT%H:%M:%SZ}"}
    return pretty({**facts, "outcome": _outcome(checks), "checks": [asdict(check) for check in checks]})


def report_markdown(checks: Sequence[Check], manifest: str, source: str, ended: datetime) -> str:
    """The report for people."""
    lines = [
        f"# Audit {_outcome(checks)}",
        "",
        f"{plain(manifest)}, derived again from {plain(source)} by {ended:%Y-%m-%d %H:%M:%S} UTC.",
        "",
        "| | what was checked | what was found |",
        "| --- | --- | --- |",
        *(f"| {'ok' if check.passed else '**FAILED**'} | {check.name} | {plain(check.detail)} |" for check in checks),
    ]
    return "\n".join(lines) + "\n"


def _outcome(checks: Sequence[Check]) -> str:
    return "passed" if all(check.passed for check in checks) else "failed"
