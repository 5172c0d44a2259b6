"""The recipe for people, in the order in which it is made: words, tables, figures, Markdown, page, and its record."""

from packing.report.record import TRIGGERED_BY, RefreshRecord, mark_committed, record_manifest, track_recipe
from packing.report.words import describe_gap, summary_rows

__all__ = [
    "TRIGGERED_BY",
    "RefreshRecord",
    "describe_gap",
    "mark_committed",
    "record_manifest",
    "summary_rows",
    "track_recipe",
]
