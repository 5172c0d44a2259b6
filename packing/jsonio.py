"""Canonical JSON and digests: one way to serialize whatever is digested, stored or compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(value: Any) -> bytes:
    """Sorted keys, no spaces, ASCII; the same value always gives the same bytes. Refuses NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()


def pretty(document: Mapping[str, Any]) -> bytes:
    """The form in which documents are stored, for people and for diffs: a line for each field and each list entry."""
    return b"{\n" + b",\n".join(_field(key, document[key]) for key in sorted(document)) + b"\n}\n"


def _field(key: str, value: Any) -> bytes:
    name = canonical(key) + b": "
    if isinstance(value, list | tuple) and value:
        return name + b"[\n " + b",\n ".join(canonical(entry) for entry in value) + b"\n]"
    return name + canonical(value)
