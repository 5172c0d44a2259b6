"""Functions compiled to machine code by numba, at their first call, free of the GIL. Nothing checks array bounds there.

`entry_point` functions are called from Python and cached on disk together with the `compiled` ones that they call,
which only compiled code may call. The cache knows of changes to an entry point's own file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=np.generic)


def entry_point(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` to be called from Python."""
    machine_code: Callable[P, R]
    try:
        machine_code = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # No folder for the cache may be written to: each process compiles for itself.
        machine_code = numba.njit(nogil=True)(function)
    return machine_code


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` to be called from compiled code; the wrappers for others would take as long again."""
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # missing from numba's types
    machine_code: Callable[P, R] = numba.njit(**options)(function)
    return machine_code


def read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """A read-only view: what may or may not be writeable is one type to the compiler, and compiled once."""
    view = array.view()
    view.flags.writeable = False
    return view
