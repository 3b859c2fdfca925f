"""Arrays in numpy's file format (.npy), read from untrusted bytes."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"\x93NUMPY"
"""The first bytes of a file."""

_READERS = {
    MAGIC + b"\x01\x00": np.lib.format.read_array_header_1_0,
    MAGIC + b"\x02\x00": np.lib.format.read_array_header_2_0,
}


def read_npy(data: bytes) -> npt.NDArray[Any]:
    """Return the array of a file, which shares its memory.

    Raises
    ------
    ValueError
        If it is not such a file, or its header states another size than it has.
    """
    stream = io.BytesIO(data)
    try:
        if data[:8] not in _READERS:
            raise ValueError("not an npy file of version 1 or 2")
        np.lib.format.read_magic(stream)
        shape, fortran, dtype = _READERS[data[:8]](stream)
        # Before anything is allocated: a header of a few bytes can state any size.
        if dtype.hasobject or dtype.kind not in "fu" or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(f"an array of {dtype} and shape {shape} does not fit {len(data)} bytes")
        flat = np.frombuffer(data, dtype, offset=stream.tell())
        return flat.reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # numpy parses the header as a Python literal, which raises many kinds of errors
        raise ValueError(f"the array cannot be read: {error}") from None


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """Return an array as a file.

    Examples
    --------
    >>> read_npy(write_npy(np.arange(6, dtype=np.uint8).reshape(2, 3)))
    array([[0, 1, 2],
           [3, 4, 5]], dtype=uint8)
    """
    return _header(array.dtype.str, array.shape) + array.tobytes()


@lru_cache(maxsize=256)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return what comes before an array's values in C order; numpy takes longer for it than for the values."""
    stream = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()
