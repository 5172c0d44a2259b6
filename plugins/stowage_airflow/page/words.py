"""Figures as people read them; none of these words promises more than the figures do."""

from __future__ import annotations

import re
from datetime import datetime, timezone

NONE = "not recorded"
INVALID = "no valid figure"
FIGURES: tuple[tuple[str, str, str], ...] = (
    ("sequences", "Sequences", "whole"),
    ("packs", "Packs", "whole"),
    ("lower_bound", "Lower bound (packs)", "whole"),
    ("gap", "Gap (packs)", "whole"),
    ("packing_efficiency", "Packing efficiency", "percent"),
    ("packing_factor", "Packing factor", "factor"),
    ("packing_factor_upper_bound", "Packing factor, upper bound", "factor"),
    ("tokens", "Real tokens", "whole"),
    ("padding_tokens", "Padding tokens", "whole"),
    ("padding_tokens_unpacked", "Padding tokens without packing", "whole"),
    ("partitions", "Partitions", "whole"),
    ("rejected", "Rejected records", "whole"),
    ("solve_iterations", "Iterations of the solver", "whole"),
    ("solve_seconds", "Solved in", "seconds"),
)
"""Name, title and kind of each number in a recipe's `statistics`, in the order in which people ask for them."""

_WITHIN = ("0.0001", "0.001", "0.01", "0.1", "1", "10")
_PER_WHOLE = (1_000_000, 100_000, 10_000, 1_000, 100, 10)
_LAST_MOMENT = 253_402_300_799_000  # the end of the year 9999
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def describe_gap(packs: float | None, lower_bound: float | None) -> str:
    """How close the packs are to the least possible, by the smallest of a few shares that holds.

    As the least possible is at least the bound, "within X %" holds of the least possible, too.
    """
    if packs is None or lower_bound is None:
        return NONE
    if packs != packs or lower_bound != lower_bound or packs < lower_bound or lower_bound < 1:
        return "no valid bound"
    if packs == lower_bound:
        return "proven optimal"
    for share, parts in zip(_WITHIN, _PER_WHOLE, strict=True):
        if (packs - lower_bound) * parts <= lower_bound:
            return f"within {share} %"
    return "more than 10 %"


def whole(value: float) -> str:
    """12,345"""
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """99.9973 %, cut rather than rounded where rounding would make it a full 100."""
    text = f"{100 * share:.4f}"
    return f"{'99.9999' if text == '100.0000' and share < 1 else text} %"


def points(share: float) -> str:
    """-12.9098 points: the difference of two shares in percent."""
    return f"{100 * share:.4f} points"


def factor(value: float) -> str:
    """1.9876"""
    return f"{value:.4f}"


def seconds(value: float) -> str:
    """0.35 s, 12 min 5 s, 2 h 3 min"""
    if value < 60:
        return f"{value:.2f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(value: float) -> str:
    """1.5 MB, in powers of 1000"""
    amount, unit = float(value), 0
    while amount >= 999.95 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:,.0f} {_UNITS[0]}" if unit == 0 else f"{amount:,.1f} {_UNITS[unit]}"


def legible(text: str) -> str:
    r"""The text with `\xff` for each byte that is no text, as in the name of a file that is not UTF-8.

    Python has such bytes, and lone halves of JSON's escapes, as characters that no encoding has.
    """
    return re.sub("[\ud800-\udfff]", lambda found: _escaped(ord(found[0])), text)


def _escaped(code: int) -> str:
    byte = code - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else f"\\u{code:04x}"


def moment(milliseconds: int) -> datetime:
    """A time of MLflow's, in UTC; the nearest that a calendar has for one that somebody took for other units."""
    return datetime.fromtimestamp(min(max(milliseconds, 0), _LAST_MOMENT) / 1000, timezone.utc)
