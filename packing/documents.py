"""Reading stored JSON documents: those that must be there, and those that can be made again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from packing.errors import InputError, ObjectNotFoundError
from packing.ports import Storage

Value = TypeVar("Value")

log = logging.getLogger(__name__)


def read_document(storage: Storage, uri: str, kind: str) -> Mapping[str, Any]:
    """The JSON object at `uri`; raises InputError if it is none, and so no `kind` of document either."""
    content = storage.read(uri)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{uri}: not a {kind} ({exc}); check the URI") from exc
    if not isinstance(document, dict):
        raise InputError(f"{uri}: not a {kind} (a JSON {type(document).__name__}); check the URI")
    return document


def read_cached(storage: Storage, uri: str, parse: Callable[[Any], Value]) -> Value | None:
    """What `parse` makes of the JSON document at `uri`, or None if there is none that it can make sense of."""
    try:
        return parse(json.loads(storage.read(uri)))
    except ObjectNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        log.warning("%s: damaged (%s: %s); making it again", uri, type(exc).__name__, exc)
        return None
