"""Canonical JSON and digests: one way to serialize whatever is digested, stored or compared."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """Sorted keys, no spaces, ASCII; the same value always gives the same bytes. Refuses NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()


def pretty(value: Any) -> bytes:
    """The form in which recipes and manifests are stored, for people to read: sorted keys, one field a line."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")
