"""CRC-32C for compiled code: google-crc32c's own C library, called without the GIL.

Compiled code takes the library's function as an address, since an address that were compiled into it would be wrong
in the next process, which loads the code from numba's cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import google_crc32c
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from packing.compiled import compiled
from packing.errors import UsageError


@cache
def crc32c_address() -> int:
    """Where `uint32_t crc32c_value(const uint8_t *data, size_t size)` is in this process; raises UsageError."""
    return address_in(google_crc32c)


def address_in(package: Any) -> int:
    """The address in the C library of the package `google_crc32c`.

    Raises UsageError if it came without: its pure Python version is some 10,000 times slower.
    """
    try:
        library = ctypes.CDLL(package._crc32c.__file__)
        address = ctypes.cast(library.crc32c_value, ctypes.c_void_p).value
    except (AttributeError, OSError) as exc:
        raise UsageError(
            f"google-crc32c: expected the package with its C library, found {package.implementation!r} ({exc}); "
            "install a wheel: pip install --force-reinstall --only-binary :all: google-crc32c"
        ) from exc
    return int(address or 0)


def _machine_code_of_call(_context: Any, _function: Any, _data: Any, _size: Any) -> Any:
    """The types and the code of `function(data, size)`, all three given as int64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        signature = ir.FunctionType(ir.IntType(32), [ir.IntType(64), ir.IntType(64)])
        return builder.call(builder.inttoptr(arguments[0], signature.as_pointer()), arguments[1:])

    return types.uint32(types.int64, types.int64, types.int64), generate


_call = cast("Callable[[int, int, int], int]", intrinsic(_machine_code_of_call))


@compiled
def masked_crc_at(function: int, data: int, size: int) -> int:
    """`packing.tfrecord.masked_crc` of `size` bytes at address `data`, by the function at address `function`."""
    crc = _call(function, data, size)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
