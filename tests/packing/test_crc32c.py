from __future__ import annotations

from types import SimpleNamespace

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packing.crc32c import address_in, crc32c_address, masked_crc_at
from packing.errors import UsageError
from packing.tfrecord import masked_crc


@numba.njit
def compiled_crc(function: int, data: np.ndarray, begin: int) -> int:
    return masked_crc_at(function, data.ctypes.data + begin, len(data) - begin)


@given(st.binary(max_size=5000), st.integers(0, 100))
def test_compiled_code_finds_the_same_crc(data: bytes, begin: int) -> None:
    begin = min(begin, len(data))
    assert compiled_crc(crc32c_address(), np.frombuffer(bytearray(data), np.uint8), begin) == masked_crc(data[begin:])


@pytest.mark.parametrize("extension", [{}, {"_crc32c": SimpleNamespace(__file__="/nowhere/_crc32c.so")}])
def test_a_package_without_the_c_library_is_refused_with_advice(extension: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"found 'python' .*; install a wheel"):
        address_in(SimpleNamespace(implementation="python", **extension))
