"""Tables and targets of the parts, as Markdown for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Cell = str | int | float | None

_MET = {True: "yes", False: "**no**", None: ""}


@dataclass(frozen=True)
class Table:
    """What was measured, in numbers; a cell that is None was not measured, and a note or another cell says why."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """One figure against what it should be; `value` and `met` are None where it could not be measured."""

    what: str
    value: float | None
    figure: str
    target: str
    met: bool | None


@dataclass(frozen=True)
class Part:
    """One part of the benchmarks, with the seconds that it took."""

    title: str
    targets: tuple[Target, ...]
    tables: tuple[Table, ...]
    seconds: float = 0.0


def at_most(what: str, value: float, limit: float, unit: str) -> Target:
    """A figure that should be low."""
    return Target(what, value, _with_unit(value, unit), f"at most {_with_unit(limit, unit)}", value <= limit)


def at_least(what: str, value: float, limit: float, unit: str) -> Target:
    """A figure that should be high."""
    return Target(what, value, _with_unit(value, unit), f"at least {_with_unit(limit, unit)}", value >= limit)


def not_measured(what: str, target: str, reason: str) -> Target:
    """A figure that could not be measured, and why."""
    return Target(what, None, f"not measured: {reason}", target, None)


def document(machine: Mapping[str, Any], settings: Mapping[str, Any], parts: Mapping[str, Part]) -> dict[str, Any]:
    """Everything, for JSON."""
    return {"machine": machine, "settings": settings, "parts": {name: asdict(part) for name, part in parts.items()}}


def markdown(machine: Mapping[str, Any], settings: Mapping[str, Any], parts: Mapping[str, Part]) -> str:
    """Everything, as Markdown: the targets of all parts first."""
    lines = ["# Benchmarks", "", "All of it was measured in one run of `python -m benchmarks`.", ""]
    if settings["quick"]:
        lines += ["This was a quick run: it shows that everything runs, and its figures mean nothing.", ""]
    targets = [target for part in parts.values() for target in part.targets]
    rows = [(target.what, target.figure, target.target, _MET[target.met]) for target in targets]
    lines += ["## Targets", "", *_table(("what", "figure", "target", "met"), rows), ""]
    for part in parts.values():
        lines += [f"## {part.title}", ""]
        for table in part.tables:
            lines += [f"### {table.title}", "", *_table(table.columns, table.rows), ""]
            lines += [f"{note}\n" for note in table.notes]
    facts = [(name, _join(value)) for name, value in {**machine, **settings}.items()]
    took = [(f"seconds for {name}", round(part.seconds)) for name, part in parts.items()]
    lines += ["## Where and how", "", *_table(("what", "value"), [*facts, *took])]
    return "\n".join(lines) + "\n"


def write_report(
    folder: Path, machine: Mapping[str, Any], settings: Mapping[str, Any], parts: Mapping[str, Part]
) -> None:
    """Write `results.json` and `results.md` into `folder`."""
    text = json.dumps(document(machine, settings, parts), indent=1)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(machine, settings, parts), encoding="utf-8")


def _table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[str]:
    rows = list(rows)
    numeric = [
        all(row[i] is None or isinstance(row[i], (int, float)) for row in rows) and bool(rows)
        for i in range(len(columns))
    ]
    cells = [list(columns), ["---:" if right else "---" for right in numeric]]
    cells += [[_text(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in cells]


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return _number(cell)
    return f"{cell:,}" if isinstance(cell, int) else cell.replace("|", "\\|")


def _number(value: float) -> str:
    """Three digits that tell, without exponents."""
    if value == 0:
        return "0"
    size = abs(value)
    decimals = next((d for d, least in enumerate((100, 10, 1, 0.1, 0.01, 0.001)) if size >= least), 6)
    return f"{value:,.{decimals}f}"


def _with_unit(value: float, unit: str) -> str:
    separator = "" if unit == "x" else " "
    return f"{_text(value)}{separator}{unit}".rstrip()


def _join(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
