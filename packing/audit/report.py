"""What an audit found, as a document and as a page, and both in the tracker beside the recipe that was audited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from packing.jsonio import pretty
from packing.ports import Run
from packing.report.markdown import plain
from packing.verify import Check

AUDIT = "stowage.audit"


def record_audit(run: Run, checks: Sequence[Check], *, manifest: str, source: str) -> None:
    """Add the audit's report to the recipe's run; a later audit replaces it."""
    run.log_artifacts(
        {
            "audit/report.json": report_bytes(checks, manifest, source),
            "audit/report.md": report_markdown(checks, manifest, source).encode(),
        }
    )
    run.set_tags({AUDIT: _outcome(checks)})


def report_bytes(checks: Sequence[Check], manifest: str, source: str) -> bytes:
    """The report for programs."""
    lines = [asdict(check) for check in checks]
    return pretty({"manifest": manifest, "source": source, "outcome": _outcome(checks), "checks": lines})


def report_markdown(checks: Sequence[Check], manifest: str, source: str) -> str:
    """The report for people."""
    lines = [
        f"# Audit {_outcome(checks)}",
        "",
        f"{plain(manifest)}, derived again from {plain(source)}.",
        "",
        "| | what was checked | what was found |",
        "| --- | --- | --- |",
        *(f"| {'ok' if check.passed else '**FAILED**'} | {check.name} | {plain(check.detail)} |" for check in checks),
    ]
    return "\n".join(lines) + "\n"


def _outcome(checks: Sequence[Check]) -> str:
    return "passed" if all(check.passed for check in checks) else "failed"
