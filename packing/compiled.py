"""Functions compiled to machine code by numba, at their first call, free of the GIL. Nothing checks array bounds there.

`entry_point` functions are called from Python and cached on disk together with the `compiled` ones that they call,
which only compiled code may call. The cache knows of changes to an entry point's own file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

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
    """Compile `function` to be called from compiled code, to which it leaves making arrays.

    Wrappers for other callers would take as long again to compile, and counting who refers to the arrays that it is
    given or cuts up (`_nrt`, by locked instructions) a third of its run time.
    """
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}  # not in its types
    machine_code: Callable[P, R] = numba.njit(**options)(function)
    return machine_code


def read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """A read-only view: what may or may not be writeable is one type to the compiler, and compiled once."""
    view = array.view()
    view.flags.writeable = False
    return view


def _machine_code_of_prefetch(_context: Any, _address: Any) -> Any:
    """The types and the code of `prefetch(address)`, given as int64."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        instruction = builder.module.declare_intrinsic("llvm.prefetch", [pointer], signature)
        to_read, to_keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(instruction, [builder.inttoptr(arguments[0], pointer), to_read, to_keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


prefetch = cast("Callable[[int], None]", intrinsic(_machine_code_of_prefetch))
"""Have the memory at an address brought into the processor's caches, for compiled code; harmless at any address."""
