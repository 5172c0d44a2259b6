"""A notifier that writes what it is to send to a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context


class FileNotifier(BaseNotifier):
    """Appends subject and body, rendered, as a line of JSON."""

    template_fields: Sequence[str] = ("title", "text")

    def __init__(self, *, file: str, title: str, text: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.file, self.title, self.text = file, title, text

    def notify(self, context: Context) -> None:  # noqa: ARG002 - as Airflow calls it
        with Path(self.file).open("a") as file:
            file.write(json.dumps({"title": self.title, "text": self.text}) + "\n")

    async def async_notify(self, context: Context) -> None:
        self.notify(context)


def configured(file: Path) -> str:
    """STOWAGE_NOTIFY for this notifier."""
    target = {"notifier": f"{__name__}.FileNotifier", "file": str(file), "title": "$subject", "text": "$message"}
    return json.dumps([target])


def sent(file: Path) -> dict[str, str]:
    """What was sent, text by title."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {entry["title"]: entry["text"] for entry in map(json.loads, lines)}
