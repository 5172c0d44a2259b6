"""The recipe in Markdown, as MLflow shows it above a run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from packing.ports import Table
from packing.report.words import certificate_words, parameter_rows, summary_rows
from packing.types import Recipe

SHOWN_STRATEGIES = 5
MOST_CHARACTERS = 7500
"""MLflow refuses a description of more than 8,000."""


def description(recipe: Recipe, strategies: Table, lineage: Sequence[tuple[str, str]]) -> str:
    """What the recipe is, its figures, parameters and lineage; `strategies` are the top ones.

    Cut off behind a whole line if it would be too long for MLflow, which it says then.
    """
    top = [
        (shorten(str(row[0]), 120), f"{row[2]:,} packs, {row[3]:.2%}, {row[4]:,} slots empty")
        for row in strategies.rows[:SHOWN_STRATEGIES]
    ]
    parts = [
        "How the sequences of some raw shards share packs: the solved answer, and the proof of how good it is.",
        facts(summary_rows(recipe)),
        certificate_words(recipe),
        "**Parameters**",
        facts(parameter_rows(recipe)),
        "**Top strategies**, by the lengths that share a pack",
        facts(top),
        "**Lineage**",
        facts(lineage),
        "All of it is in the artifacts: `recipe/report.html`, and as data in `recipe/recipe.json` and `recipe/tables`.",
    ]
    text = "\n\n".join(parts) + "\n"
    if len(text) <= MOST_CHARACTERS:
        return text
    return text[: text.rindex("\n", 0, MOST_CHARACTERS)] + "\n\nCut off here; `recipe/report.html` has all of it.\n"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values as a table."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {plain(name)} | {linked(value)} |" for name, value in rows)])


def linked(value: str) -> str:
    """A text that may be a URL, as a link if it is one that browsers open."""
    if value.startswith(("https://", "http://")) and not set(value) & set("<>()[]|`\\ \n"):
        return f"[{plain(value)}]({value})"
    return plain(value)


def plain(text: str) -> str:
    """The text as it is, whatever it holds: of the characters that mean something in Markdown or HTML, none does."""
    return "".join(f"\\{character}" if character in "\\`*_[]|~" else character for character in escape(_one_line(text)))


def shorten(text: str, characters: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= characters else text[: characters - 3] + "..."


def _one_line(text: str) -> str:
    """Names of files may hold bytes that are no text."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())
