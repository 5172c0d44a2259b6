"""Bar charts as inline SVG without styles of their own; the table beside each one has the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stowage_airflow.page.words import whole

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 220, 8, 22, 20


@dataclass(frozen=True)
class Bar:
    """One bar; `label` stands below it, `first` and `second` are the values of one or two series."""

    label: str
    first: float
    second: float | None = None


def bar_chart(bars: Sequence[Bar], title: str, *, labels: int = 8) -> Markup:
    """Bars side by side, with about so many labels; two series are drawn one over the other."""
    highest = max((max(bar.first, bar.second or 0) for bar in bars), default=0) or 1
    step = (WIDTH - 2 * LEFT) / max(len(bars), 1)
    every = -(-len(bars) // labels)
    drawn = [_bar(bar, LEFT + step * place, step, highest) for place, bar in enumerate(bars)]
    named = [
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            LEFT + step * (place + 0.5), HEIGHT - 6, bar.label
        )
        for place, bar in enumerate(bars)
        if place % every == 0
    ]
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{title}">'
        '<text class="scale" x="{left}" y="13">{top}</text>'
        '<line class="axis" x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>{bars}{names}</svg>'
    ).format(
        w=WIDTH,
        h=HEIGHT,
        title=title,
        left=LEFT,
        right=WIDTH - LEFT,
        base=HEIGHT - BOTTOM,
        top=whole(highest),
        bars=Markup("").join(drawn),
        names=Markup("").join(named),
    )


def _bar(bar: Bar, x: float, step: float, highest: float) -> Markup:
    drawn = _rectangle("first", x, step, bar.first, highest)
    return drawn if bar.second is None else drawn + _rectangle("second", x, step, bar.second, highest)


def _rectangle(series: str, x: float, step: float, value: float, highest: float) -> Markup:
    tall = (HEIGHT - BOTTOM - TOP) * value / highest
    gap = min(step * 0.2, 12)
    return Markup('<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>').format(
        series, x + gap / 2, HEIGHT - BOTTOM - tall, step - gap, tall
    )
