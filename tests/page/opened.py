"""The page's application without Airflow around it, and its HTML taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from fastapi import FastAPI
from starlette.testclient import TestClient

from packing.ports import Tracker

MLFLOW_URL = "http://mlflow.example.org:5000"
VOID = {"meta", "link", "input", "br"}


@dataclass(eq=False)
class Element:
    """One element of a page; `text` is all text in it."""

    tag: str
    attributes: dict[str, str]
    parents: tuple[Element, ...]
    text: str = ""

    def within(self, element_id: str) -> bool:
        return any(parent.attributes.get("id") == element_id for parent in self.parents)


class Parsed(HTMLParser):
    """A page's elements in order, and its texts each with the elements around it."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.texts: list[tuple[str, tuple[Element, ...]]] = []
        self._open: list[Element] = []
        self.feed(content)
        assert not self._open, f"not closed: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, tuple(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}, tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((data, tuple(self._open)))
        for element in self._open:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def figures(self) -> list[tuple[str, float]]:
        """(place in the JSON, exact value) of every figure that names its place."""
        found = [element.attributes for element in self.all("data")]
        return [(entry["data-of"], float(entry["value"])) for entry in found if "data-of" in entry]

    def rows(self, region: str) -> list[list[float]]:
        """The exact values in each row of the table with this caption's id, but for its head."""
        rows = self._rows(region)
        values = [[float(e.attributes["value"]) for e in self._below(row, {"data"})] for row in rows]
        return [found for found in values if found]

    def cells(self, region: str, *, columns: int) -> list[list[str]]:
        """The texts of the first columns of that table, but for its head."""
        return [[cell.text for cell in self._below(row, {"th", "td"})][:columns] for row in self._rows(region)[1:]]

    def _rows(self, region: str) -> list[Element]:
        return [row for row in self.all("tr") if any(_labelled(parent, region) for parent in row.parents)]

    def _below(self, row: Element, tags: set[str]) -> list[Element]:
        return [e for e in self.elements if e.tag in tags and any(parent is row for parent in e.parents)]

    def said(self) -> str:
        """All text, with single blanks."""
        return " ".join("".join(text for text, _ in self.texts).split())

    def alert(self) -> str:
        """The text of the page's only alert."""
        (found,) = [element for element in self.elements if element.attributes.get("role") == "alert"]
        return " ".join(found.text.split())

    def links(self) -> list[str]:
        return [element.attributes["href"] for element in self.all("a")]


def _labelled(element: Element, region: str) -> bool:
    return element.attributes.get("aria-labelledby") == region


@dataclass(frozen=True)
class Page:
    """Requests to the page, below the path where Airflow mounts it."""

    app: FastAPI
    client: TestClient = field(repr=False)

    def get(self, path: str, status: int = 200) -> Parsed:
        answer = self.client.get(f"/stowage{path}")
        assert answer.status_code == status, answer.text
        return Parsed(answer.text)


def open_page(tracker: Tracker) -> Page:
    """The page for somebody who may do everything."""
    from stowage_airflow.connections import mlflow_uri
    from stowage_airflow.page.access import may_refresh, may_see_recipes, may_see_trainings
    from stowage_airflow.page.app import create_app, page_tracker
    from stowage_airflow.page.form import Form, read_form

    app = create_app()
    app.dependency_overrides.update(
        {
            may_see_recipes: lambda: None,
            may_see_trainings: lambda: True,
            may_refresh: lambda: True,
            page_tracker: lambda: tracker,
            mlflow_uri: lambda: MLFLOW_URL,
            read_form: lambda: Form((), dry_run=True, paused=False),
        }
    )
    outer = FastAPI()
    outer.mount("/stowage", app)
    return Page(app, TestClient(outer, raise_server_exceptions=False))
