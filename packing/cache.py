"""Reading documents that can be made again: one that is missing or damaged is simply not there."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from packing.errors import ObjectNotFoundError
from packing.ports import Storage

Value = TypeVar("Value")

log = logging.getLogger(__name__)


def read_cached(storage: Storage, uri: str, parse: Callable[[Any], Value]) -> Value | None:
    """What `parse` makes of the JSON document at `uri`, or None if there is none that it can make sense of."""
    try:
        return parse(json.loads(storage.read(uri)))
    except ObjectNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        log.warning("%s: damaged (%s: %s); making it again", uri, type(exc).__name__, exc)
        return None
