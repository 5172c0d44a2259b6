"""Bar charts as inline SVG without styles of their own; the table beside each one has the same figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT, SIDE, BOTTOM, TOP = 640, 220, 8, 28, 4
WIDEST, NARROWER = 96, 0.45
"""So much room has a bar at most; a second series is so much narrower than the first, which is seen on both sides."""
LARGE, SPILL = 16, 20
"""A label's character is so wide on narrow screens, where the style sheet enlarges it; a label may stand out so far."""


@dataclass(frozen=True)
class Bar:
    """One bar; `label` stands below it, `first` and `second` are the values of one or two series."""

    label: str
    first: float
    second: float | None = None


def bar_chart(bars: Sequence[Bar], title: str, *, labels: int = 8) -> Markup:
    """Bars side by side, the highest as high as the upper line, with about so many labels; the last bar has one."""
    top = highest(bars) or 1
    step = min((WIDTH - 2 * SIDE) / max(len(bars), 1), WIDEST)
    drawn = [_bar(bar, SIDE + step * (place + 0.5), step, top) for place, bar in enumerate(bars)]
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{title}">'
        '<line class="axis" x1="{left}" x2="{right}" y1="{top}" y2="{top}"/>{bars}'
        '<line class="axis" x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>{names}</svg>'
    ).format(
        w=WIDTH,
        h=HEIGHT,
        title=title,
        left=SIDE,
        right=WIDTH - SIDE,
        top=TOP,
        base=HEIGHT - BOTTOM,
        bars=Markup("").join(drawn),
        names=Markup("").join(_labels(bars, step, -(-len(bars) // labels))),
    )


def highest(bars: Sequence[Bar]) -> float:
    """What the upper line of the chart stands for."""
    return max((max(bar.first, bar.second or 0) for bar in bars), default=0)


def _labels(bars: Sequence[Bar], step: float, every: int) -> Iterator[Markup]:
    """The labels of every so many bars; those that have no room when they are large are minor."""
    large = LARGE * max((len(bar.label) for bar in bars), default=0)
    major = every * max(math.ceil((large + LARGE) / (step * max(every, 1))), 1)
    for place, bar in enumerate(bars):
        before_last = len(bars) - 1 - place
        if before_last % every:
            continue
        middle = SIDE + step * (place + 0.5)
        inside = middle + large / 2 <= WIDTH + SPILL
        yield Markup('<text{} x="{:.1f}" y="{}" text-anchor="{}" dominant-baseline="hanging">{}</text>').format(
            Markup(' class="minor"') if before_last % major else "",
            middle if inside else WIDTH,
            HEIGHT - BOTTOM + 6,
            "middle" if inside else "end",
            bar.label,
        )


def _bar(bar: Bar, middle: float, step: float, top: float) -> Markup:
    width = step - min(step * 0.2, 24)
    drawn = _rectangle("first", middle, width, bar.first, top)
    if bar.second is None:
        return drawn
    return drawn + _rectangle("second", middle, width * NARROWER, bar.second, top)


def _rectangle(series: str, middle: float, width: float, value: float, top: float) -> Markup:
    tall = (HEIGHT - BOTTOM - TOP) * value / top
    return Markup('<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>').format(
        series, middle - width / 2, HEIGHT - BOTTOM - tall, width, tall
    )
