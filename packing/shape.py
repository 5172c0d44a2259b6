"""The shape of stored documents: exactly these fields, with values of exactly these types.

Python takes True and 1.0 for 1 and a reader ignores fields that it does not ask for. What is digested, compared and
audited is held to its shape first, so that nothing behind it meets a type that cannot be.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Value:
    """A JSON value that is no object or list of a stated shape; `words` say what is expected."""

    words: str
    holds: Callable[[Any], bool]


Shape: TypeAlias = "Value | Mapping[str, Shape] | Sequence[Shape]"
"""A value, an object of exactly these fields, or (a sequence of one shape) a list of any number of these."""

TEXT = Value("a text", lambda value: type(value) is str)
DIGEST = Value("64 hexadecimal digits", lambda value: type(value) is str and bool(_DIGEST.fullmatch(value)))
FLAG = Value("true or false", lambda value: type(value) is bool)
SIZE = Value("an integer of at least 0", lambda value: type(value) is int and value >= 0)
COUNT = Value("an integer of at least 1", lambda value: type(value) is int and value >= 1)
INTEGER = Value("an integer", lambda value: type(value) is int)
REAL = Value("a number of at least 0.0", lambda value: type(value) is float and math.isfinite(value) and value >= 0)
RANGE = Value(
    "null, or two integers of at least 0, the first below the second",
    lambda value: (
        value is None
        or (type(value) is list and len(value) == 2 and all(map(SIZE.holds, value)) and value[0] < value[1])
    ),
)


def exactly(value: str | int) -> Value:
    """This value and no other that equals it."""
    return Value(repr(value), lambda found: type(found) is type(value) and found == value)


def shape_problems(value: Any, shape: Shape, where: str = "") -> Iterator[str]:
    """What of a parsed JSON document is not of this shape, in words; `where` names the document's place in another."""
    if isinstance(shape, Value):
        if not shape.holds(value):
            yield _words(where, shape.words, reprlib.repr(value))
    elif isinstance(shape, Mapping):
        yield from _object_problems(value, shape, where)
    elif type(value) is not list:
        yield _words(where, "a list", reprlib.repr(value))
    else:
        for number, entry in enumerate(value):
            yield from shape_problems(entry, shape[0], f"{where}[{number}]")


def _object_problems(value: Any, shape: Mapping[str, Shape], where: str) -> Iterator[str]:
    if type(value) is not dict:
        yield _words(where, f"an object with {', '.join(shape)}", reprlib.repr(value))
        return
    for name in sorted(value.keys() | shape.keys()):
        place = f"{where}.{name}" if where else name
        if name not in shape:
            yield _words(reprlib.repr(place), "no such field", reprlib.repr(value[name]))
        elif name not in value:
            yield _words(place, "this field", "none")
        else:
            yield from shape_problems(value[name], shape[name], place)


def _words(where: str, expected: str, found: str) -> str:
    return f"{where or 'the document'}: expected {expected}, found {found}"
