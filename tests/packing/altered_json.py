"""Any single alteration of a JSON document, as a hypothesis strategy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document, leaves and containers."""
    if path:
        yield path
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield from places(value, (*path, key))


def at(document: Any, path: Sequence[Any]) -> Any:
    """The value at a path."""
    for key in path:
        document = document[key]
    return document


STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from([-(2**63), 2**31, 2**63, 2**64, 10**400]),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["0" * 64, "f" * 64, "\ud800", "a", "/raw/a", "tokens", "optimal", "nnls"]),
    st.sampled_from([[], {}, [[]], [1, 2], [2, 1], {"lengths": [1], "count": 1}]),
)


def nearby(value: Any) -> st.SearchStrategy[Any]:
    """Values that are easily taken for `value`."""
    if isinstance(value, bool):
        return st.sampled_from([not value, int(value)])
    if isinstance(value, int):
        return st.sampled_from([value + 1, value - 1, float(value), str(value), bool(value), -value])
    if isinstance(value, float):
        return st.sampled_from([value * 1.5, int(value), -value, value + 1e-9])
    if isinstance(value, str):
        return st.sampled_from([value + "0", value[:-1], value.upper(), f" {value}", value[::-1]])
    return st.sampled_from([{"0": value} if isinstance(value, list) else [value], None])


@st.composite
def alterations(draw: st.DrawFn, document: Any) -> tuple[str, Any]:
    """What was altered, as keys with dots between them, and the altered document."""
    document = copy.deepcopy(document)
    *above, key = path = draw(st.sampled_from(sorted(places(document), key=str)))
    parent, value = at(document, above), at(document, path)
    kinds = ["replace", "replace", "remove", "add"]
    kinds += ["double", "swap"] if isinstance(parent, list) else []
    kind = draw(st.sampled_from(kinds))
    if kind == "replace":
        parent[key] = draw(st.one_of(nearby(value), STRANGE))
    elif kind == "remove":
        del parent[key]
    elif kind == "add" and isinstance(parent, dict):
        parent[draw(st.text(max_size=3))] = draw(STRANGE)
    elif kind == "add":
        parent.insert(key, draw(st.one_of(nearby(value), STRANGE)))
    elif kind == "double":
        parent.insert(key, copy.deepcopy(value))
    else:
        other = draw(st.integers(0, len(parent) - 1))
        parent[key], parent[other] = parent[other], parent[key]
    return ".".join(map(str, path)), document
