"""What the demo is doing: a live list of steps on a terminal, one line a change elsewhere. Goes to standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


@dataclass
class Step:
    """One line of the display; `detail` says how far it is, `seconds` is set when it ended."""

    name: str
    detail: str = ""
    started: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    failed: bool = False


class Display:
    """Steps in the order in which they began; several may be under way."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._steps: list[Step] = []
        self._spinner = Spinner("dots")
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=8)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, name: str, detail: str = "") -> Step:
        """Add a step that is under way."""
        step = Step(name, detail)
        self._steps.append(step)
        self._say(step)
        return step

    def update(self, step: Step, detail: str) -> None:
        """Say how far a step is."""
        if detail != step.detail:
            step.detail = detail
            self._say(step)

    def end(self, step: Step, detail: str = "", *, failed: bool = False) -> None:
        """The step is over."""
        step.detail, step.failed, step.seconds = detail or step.detail, failed, time.monotonic() - step.started
        self._say(step)

    @contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[Step]:
        """A step that ends with the block, and has failed if the block raises."""
        step = self.begin(name, detail)
        try:
            yield step
        except BaseException:
            self.end(step, failed=True)
            raise
        self.end(step)

    def _say(self, step: Step) -> None:
        if not self._console.is_terminal:
            if step.seconds is None:
                line = f"{step.name}: {step.detail or 'started'}"
            else:
                line = f"{step.name}: {step.detail or 'done'} ({'failed after ' * step.failed}{step.seconds:.1f} s)"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        for step in self._steps:
            mark = (
                self._spinner if step.seconds is None else Text("x", "bold red") if step.failed else Text("✓", "green")
            )
            seconds = time.monotonic() - step.started if step.seconds is None else step.seconds
            table.add_row(mark, step.name, Text(step.detail, "dim"), Text(f"{seconds:.1f} s", "dim"))
        return table
