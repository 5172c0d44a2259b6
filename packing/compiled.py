"""Functions compiled to machine code by numba, free of the GIL and cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import numba  # type: ignore[import-untyped]  # shipped without type information

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=np.generic)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call. Nothing checks array bounds in it."""
    machine_code: Callable[P, R] = numba.njit(nogil=True, cache=True)(function)
    return machine_code


def read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """A read-only view: what may or may not be writeable is one type to the compiler, and compiled once."""
    view = array.view()
    view.flags.writeable = False
    return view
