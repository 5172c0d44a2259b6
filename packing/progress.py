"""Progress of stages on standard error: bars on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from packing.parallel import Progress as StageProgress

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def stage_progress() -> Iterator[StageProgress]:
    """What a stage calls with its name, how many items are done and how many there are."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        yield _bars(bars)


def _bars(bars: Progress) -> StageProgress:
    tasks: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    return show


def _lines(console: Console) -> StageProgress:
    last: dict[str, float] = {}

    def show(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - last.get(stage, now) >= _SECONDS_BETWEEN_LINES:
            console.print(f"{stage}: {done} of {total}", highlight=False)
            last[stage] = now
        last.setdefault(stage, now)

    return show
