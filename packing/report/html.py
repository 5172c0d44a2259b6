"""The recipe as one page that needs nothing else: no scripts, and styles and pictures are in it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from packing.ports import Cell, Table
from packing.report.words import certificate_words, parameter_rows, summary_rows
from packing.types import Recipe

SHOWN_ROWS = 500

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --page: #fff; --line: #c8cdd3; --soft: #f3f5f7; --link: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --page: #15181c; --line: #3f464e; --soft: #1f242a; --link: #8ab8f0; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--text);
       font: 1rem/1.5 system-ui, sans-serif; }
a { color: var(--link); }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { margin-top: 2rem; font-size: 1.2rem; }
figure { margin: 1rem 0; padding: .5rem; background: #fff; }
img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--soft); }
td.number { text-align: right; }
th[scope=row] { font-weight: normal; }
.facts td { overflow-wrap: anywhere; }
"""

TITLES = {
    "length_buckets": "Lengths",
    "pack_composition": "Pack composition",
    "padding": "Where the remaining padding sits",
    "top_strategies": "Top strategies",
    "partitions": "Partitions",
    "raw_shards": "Raw shards",
    "rejected": "Rejected records",
}
PICTURES = {
    "length_buckets": ("length_histogram", "Bars: sequences by length"),
    "pack_composition": ("pack_composition", "Bars: packs by the number of their sequences"),
    "padding": ("padding", "Bars: padding tokens by the empty slots of their pack"),
}
"""By table, the figure that shows it."""


def report_page(
    recipe: Recipe, tables: Mapping[str, Table], figures: Mapping[str, bytes], lineage: Sequence[tuple[str, str]]
) -> str:
    """The page; `lineage` are names and places, of which those with http(s) become links."""
    sections = []
    for name, title in TITLES.items():
        figure, alternative = PICTURES.get(name, ("", ""))
        picture = _picture(figures[figure], alternative) if figure else ""
        sections.append(_section(title, picture + _table(name, tables[name])))
    statistics = [(name, str(value)) for name, value in recipe.statistics.items()]
    title = f"Recipe {recipe.recipe_id[:12]}"
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            _facts("summary", summary_rows(recipe)),
            _section("Certificate", f"<p>{escape(certificate_words(recipe))}</p>"),
            *sections,
            _section("Parameters", _facts("parameters", parameter_rows(recipe))),
            _section("Statistics", _facts("statistics", statistics)),
            _section("Lineage", _facts("lineage", lineage)),
            _section("Producer", _facts("producer", list(recipe.producer.items()))),
            "</body></html>\n",
        ]
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _picture(png: bytes, alternative: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<figure><img alt="{escape(alternative)}" src="data:image/png;base64,{data}"></figure>'


def _facts(name: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f'<tr><th scope="row">{escape(key)}</th><td>{_linked(value)}</td></tr>' for key, value in rows)
    return f'<div class="scroll"><table class="facts" id="{name}"><tbody>{lines}</tbody></table></div>'


def _linked(value: str) -> str:
    text = escape(value)
    return f'<a href="{text}">{text}</a>' if value.startswith(("https://", "http://")) else text


def _table(name: str, table: Table) -> str:
    if not table.rows:
        return "<p>None.</p>"
    head = "".join(f'<th scope="col">{escape(column.replace("_", " "))}</th>' for column in table.columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows[:SHOWN_ROWS])
    left = len(table.rows) - SHOWN_ROWS
    note = f"<p>And {left:,} more: see recipe/tables/{name}.json.</p>" if left > 0 else ""
    content = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table id="{name}">{content}</table></div>{note}'


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.4%}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"
