"""Reading stored JSON documents: those that must be there, and those that can be made again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from packing.errors import InputError, ObjectNotFoundError
from packing.jsonio import digest, pretty
from packing.ports import Storage

Value = TypeVar("Value")

log = logging.getLogger(__name__)

_DIGEST = "sha256"


def read_document(storage: Storage, uri: str, kind: str) -> Mapping[str, Any]:
    """The JSON object at `uri`; raises InputError if it is none, and so no `kind` of document either."""
    return parse_document(storage.read(uri), uri, kind)


def parse_document(content: bytes, uri: str, kind: str) -> Mapping[str, Any]:
    """The JSON object in `content`, which is from `uri`; raises as `read_document` does."""
    try:
        document = json.loads(content, object_pairs_hook=_fields)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{uri}: not a {kind} ({exc}); check the URI") from exc
    if not isinstance(document, dict):
        raise InputError(f"{uri}: not a {kind} (a JSON {type(document).__name__}); check the URI")
    return document


def _fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields; of two with one name, other readers may take the other."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"a field twice in {sorted(fields)[:5]}")
    return fields


def write_cached(storage: Storage, uri: str, document: Mapping[str, Any]) -> None:
    """Keep a document that can be made again, with a digest by which `read_cached` knows that it is whole."""
    storage.write(uri, pretty({"document": document, _DIGEST: digest(document)}))


def read_cached(storage: Storage, uri: str, parse: Callable[[Any], Value]) -> Value | None:
    """What `parse` makes of the document kept at `uri`, or None if it is missing, altered or of another make."""
    try:
        return parse(_whole(json.loads(storage.read(uri))))
    except ObjectNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        log.warning("%s: damaged (%s: %s); making it again", uri, type(exc).__name__, exc)
        return None


def _whole(stored: Any) -> Any:
    document, expected = stored["document"], stored[_DIGEST]
    if digest(document) != expected:
        raise ValueError(f"expected SHA-256 {expected} of its content, found {digest(document)}")
    return document
