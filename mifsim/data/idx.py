"""The IDX format of MNIST's files: a magic number, big-endian sizes, then bytes, optionally gzipped."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mifsim.errors import DataError
from mifsim.limits import MAX_ARCHIVE_BYTES, MAX_UNPACKED_BYTES

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, shape: tuple[int | None, ...]) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Parameters
    ----------
    path : Path
        The file, which is gzipped if its name ends in ``.gz``.
    shape : tuple of int or None
        The sizes that the header must state; None for any size.

    Returns
    -------
    ndarray of uint8
        The values, with the sizes that the header states.

    Raises
    ------
    DataError
        If the file is missing, has another magic number or other sizes, states more than
        `mifsim.limits.MAX_UNPACKED_BYTES`, or is shorter or longer than its header states.
    """
    header = 4 + 4 * len(shape)
    data = _read(path, header)
    if len(data) < header:
        raise DataError(f"{path}: truncated: {len(data)} bytes, but the IDX header alone has {header}")
    magic = bytes((0, 0, _UNSIGNED_BYTE, len(shape)))
    if data[:4] != magic:
        raise DataError(
            f"{path}: not an IDX file of this kind: it begins with {data[:4].hex()}, expected {magic.hex()}"
        )
    sizes = struct.unpack(f">{len(shape)}I", data[4:header])
    if any(wanted not in (None, size) for size, wanted in zip(sizes, shape, strict=True)):
        wanted = " x ".join("any" if side is None else str(side) for side in shape)
        raise DataError(f"{path}: its sizes are {' x '.join(map(str, sizes))}, expected {wanted}")
    stated = header + int(np.prod(sizes, dtype=object))
    if stated > MAX_UNPACKED_BYTES:
        raise DataError(f"{path}: its header states {stated:,} bytes (accepted: at most {MAX_UNPACKED_BYTES:,})")
    data = _read(path, stated + 1)
    if len(data) < stated:
        raise DataError(f"{path}: truncated: {len(data):,} of {stated:,} bytes, {stated - len(data):,} are missing")
    if len(data) > stated:
        raise DataError(f"{path}: longer than the {stated:,} bytes that its header states")
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)


def _read(path: Path, limit: int) -> bytes:
    """Return at most `limit` bytes of the unpacked content, or the part of a truncated archive that can be unpacked."""
    try:
        with path.open("rb") as file:
            if path.suffix != ".gz":
                return file.read(limit)
            # `gzip.open` discards the unpacked bytes of a truncated archive, whose number the error message states.
            return zlib.decompressobj(wbits=31).decompress(file.read(MAX_ARCHIVE_BYTES), limit)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except zlib.error as error:
        raise DataError(f"{path}: not a valid gzip file ({error})") from error
