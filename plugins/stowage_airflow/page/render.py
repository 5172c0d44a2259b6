"""Templates, static files, and the headers that every answer has."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from airflow.api_fastapi.app import API_ROOT_PATH
from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stowage_airflow.page import words
from stowage_airflow.page.access import REFRESH_DAG
from stowage_airflow.page.charts import Bar, bar_chart, highest
from stowage_airflow.page.form import DRY_RUN

_HERE = Path(__file__).parent
STATIC: Mapping[str, bytes] = {path.name: path.read_bytes() for path in sorted((_HERE / "static").iterdir())}
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ROWS = 200
"""So many entries of a long list are shown; the downloads have all."""

_KINDS = {
    "whole": words.whole,
    "percent": words.percent,
    "points": words.points,
    "factor": words.factor,
    "seconds": words.seconds,
    "size": words.size,
}


def respond(
    content: bytes | str, media_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer with the headers that all have; `headers` come on top."""
    return Response(content, status, {**_HEADERS, **(headers or {})}, media_type)


def render(
    request: Request, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
) -> Response:
    """An HTML page."""
    content = _templates().get_template(template).render(**values, root=request.scope["root_path"])
    return respond(words.legible(content), "text/html", status=status, headers=headers)


def digest_of(name: str) -> str:
    """What names a version of a static file."""
    return hashlib.sha256(STATIC[name]).hexdigest()[:16]


def media_type(name: str) -> str:
    """Of a static file."""
    return _MEDIA_TYPES[Path(name).suffix]


def airflow_root() -> str:
    """The path below which Airflow is served, without a slash at its end; "" as a rule."""
    return API_ROOT_PATH.rstrip("/")


def figure(value: float | None, kind: str = "whole", of: str = "") -> Markup | str:
    """A number for people that carries its exact value; `of` is its place in the recipe's JSON."""
    if value is None:
        return words.NONE
    if not math.isfinite(value):
        return words.INVALID
    place = Markup(' data-of="{}"').format(of) if of else ""
    return Markup('<data value="{}"{}>{}</data>').format(repr(value), place, _KINDS[kind](value))


def address(path: str, **query: str) -> str:
    """A path with those of the parameters that are not empty."""
    given = {name: words.legible(value) for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path


def segment(text: str) -> str:
    """A text as one part of an address."""
    return quote(words.legible(text), safe="")


def inline_code(text: str) -> Markup:
    """What stands between backticks as code; the rest as it is."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if odd % 2 else part for odd, part in enumerate(parts)
    )


def _bars(rows: Sequence[Mapping[str, Any]], value: str, *ends: str) -> list[Bar]:
    """A bar for each row, named by what it counts: one value, or the two ends of a range."""
    names = (dict.fromkeys(str(row[end]) for end in ends) for row in rows)
    return [Bar("-".join(name), row[value]) for name, row in zip(names, rows, strict=True)]


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(
        airflow=airflow_root(),
        figure=figure,
        address=address,
        chart=bar_chart,
        rows=ROWS,
        figures=words.FIGURES,
        static={name: f"static/{digest_of(name)}/{name}" for name in STATIC},
        refresh_dag=REFRESH_DAG,
        dry_run=DRY_RUN,
    )
    templates.filters.update(
        segment=segment,
        fields=lambda value: asdict(value).items(),
        title_of=lambda name: name.replace("_", " ").capitalize().replace("sha256", "SHA-256"),
        bars=_bars,
        highest=highest,
        length_bars=lambda bins: [Bar(str(one.last), one.sequences) for one in bins],
        paired_bars=lambda bins: [Bar(str(one.last), one.sequences, other.sequences) for one, other in bins],
        inline_code=inline_code,
        kebab=lambda name: "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name),
    )
    return templates
