"""Reading of plain PNG files in one pass: 8 bits, grey or RGB, not interlaced, with nothing but their pixels.

Most images that clients send to a model are such files. The checks of `mifsim.data.image_headers` and
`mifsim.data.png_pixels` decompress the pixels anyway, and what is left to do takes less time than a decoder.
The pixels are the same: no step of it rounds.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.data.image_headers import PNG
from mifsim.guard.png_kernels import unfilter

_HEADER = struct.Struct(">8sI4sIIBBBBBI")
_CHUNK = struct.Struct(">I4s")
_CHECKSUM = struct.Struct(">I")
_HEADER_END = _HEADER.size
_END = b"\0\0\0\0IEND\xaeB`\x82"
_DATA = _HEADER_END + _CHUNK.size
"""Position of the compressed pixels."""
_MOST = 2**20
"""Largest number of bytes of the decompressed rows."""


class _Layout(NamedTuple):
    """Shape of the rows in bytes, shape of the image, and bytes of a pixel and of all rows with their filters."""

    rows: tuple[int, int]
    shape: tuple[int, ...]
    step: int
    total: int


def read_plain_png(data: bytes, rgb: bool) -> npt.NDArray[np.uint8] | None:
    """Return the pixels of a plain PNG file; None for any other data.

    Parameters
    ----------
    data : bytes
    rgb : bool
        Whether RGB is expected; otherwise grey.

    Returns
    -------
    ndarray of uint8, shape (H, W) or (H, W, 3), or None
        None also if the file is damaged, or larger than a mebibyte; another reader then finds out what it is.
    """
    layout = _layout(data[:_HEADER_END], rgb)
    end = len(data) - 12
    if layout is None or end < _DATA + 4 or not data.endswith(_END):
        return None
    length, kind = _CHUNK.unpack_from(data, _HEADER_END)
    if kind != b"IDAT" or _DATA + length + 4 != end:
        return None
    if zlib.crc32(data[_DATA - 4 : end - 4]) != _CHECKSUM.unpack_from(data, end - 4)[0]:
        return None
    inflater = zlib.decompressobj()
    try:
        filtered = inflater.decompress(data[_DATA : end - 4], layout.total + 1)
    except zlib.error:
        return None
    if len(filtered) != layout.total or not inflater.eof or inflater.unused_data:
        return None
    pixels = np.empty(layout.rows, np.uint8)
    defined = unfilter(np.frombuffer(filtered, np.uint8), layout.step, pixels)
    return pixels.reshape(layout.shape) if defined else None


@lru_cache(maxsize=64)
def _layout(header: bytes, rgb: bool) -> _Layout | None:
    """Return what the first bytes of a file state, of which clients send few different ones; None if not plain."""
    if len(header) < _HEADER.size:
        return None
    signature, length, kind, columns, rows, bits, colour, compression, filters, interlace, checksum = _HEADER.unpack(
        header
    )
    plain = (signature, length, kind, bits, compression, filters, interlace) == (PNG, 13, b"IHDR", 8, 0, 0, 0)
    if not plain or colour != (2 if rgb else 0) or not rows or not columns or zlib.crc32(header[12:29]) != checksum:
        return None
    step = 3 if rgb else 1
    total = rows * (1 + columns * step)
    shape = (rows, columns, 3) if rgb else (rows, columns)
    return _Layout((rows, columns * step), shape, step, total) if total <= _MOST else None
