"""What can go wrong in the demo itself."""

from __future__ import annotations

from packing.errors import StowageError


class DemoError(StowageError):
    """A step of the demo failed; the message says which and why."""
