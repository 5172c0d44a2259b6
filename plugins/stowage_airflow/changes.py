"""How much a new recipe differs from the one whose packed dataset is current: what a person is asked to approve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One figure of the current recipe and of the new one; `percent` is how much its change counts, 0 or more."""

    name: str
    current: str
    new: str
    percent: float


def changes_between(current: Mapping[str, float], new: Mapping[str, float]) -> tuple[Change, ...]:
    """Sequences dropped, packing efficiency and size, in percent of what they were; from two recipes' statistics."""
    dropped = max(0.0, current["sequences"] - new["sequences"])
    before, after = _slots(current), _slots(new)
    efficiency = new["packing_efficiency"] - current["packing_efficiency"]
    return (
        Change(
            "sequences dropped",
            f"{current['sequences']:,.0f}",
            f"{new['sequences']:,.0f}",
            100 * dropped / current["sequences"],
        ),
        Change(
            "packing efficiency",
            f"{current['packing_efficiency']:.3%}",
            f"{new['packing_efficiency']:.3%}",
            100 * abs(efficiency) / current["packing_efficiency"],
        ),
        Change("size in slots", f"{before:,.0f}", f"{after:,.0f}", 100 * abs(after - before) / before),
    )


def _slots(statistics: Mapping[str, float]) -> float:
    return statistics["tokens"] + statistics["padding_tokens"]


def exceeding(changes: Sequence[Change], percent: float) -> tuple[Change, ...]:
    """The changes by more than `percent`."""
    return tuple(change for change in changes if change.percent > percent)


def describe(changes: Sequence[Change], percent: float) -> str:
    """The changes as a Markdown table, those above `percent` in bold."""
    rows = ["| | current | new | change |", "| --- | ---: | ---: | ---: |"]
    for change in changes:
        mark = "**" if change.percent > percent else ""
        rows.append(f"| {change.name} | {change.current} | {change.new} | {mark}{change.percent:.2f} %{mark} |")
    return "\n".join(rows)
