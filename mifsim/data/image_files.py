"""Reading of untrusted PNG, JPEG and PGM files, whose headers are checked first; JPEG compression."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mifsim.errors import DataError
from mifsim.limits import read_plain

SUFFIXES = (".png", ".jpg", ".jpeg", ".pgm")
MAX_PIXELS = 64 * 2**20
"""Maximum number of pixels of an image: a file of a few kilobytes can state a size that takes gigabytes to decode."""

MAX_FILE_BYTES = 256 * 2**20
"""Maximum size of one image file, in bytes."""

Color = Literal["gray", "rgb"]


def header_size(data: bytes) -> tuple[int, int]:
    """Return the height and width that the header states, in pixels, without decoding the image.

    Raises
    ------
    ValueError
        If the data is not a PNG, JPEG or PGM file, or is truncated.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_size(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data[:2] in (b"P2", b"P5"):
        return _pgm_size(data)
    raise ValueError("neither PNG, JPEG nor PGM")


def decode(data: bytes, color: Color) -> npt.NDArray[np.uint8]:
    """Decode one image to shape (H, W), or (H, W, 3) in RGB.

    16-bit images are converted to 8 bits, transparency is dropped, and a JPEG is rotated according to its EXIF data.

    Raises
    ------
    ValueError
        If the data is damaged, is not an image, or states more than `MAX_PIXELS`.
    """
    import cv2

    height, width = header_size(data)
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels; accepted: at most {MAX_PIXELS:,} pixels")
    mode = cv2.IMREAD_COLOR_RGB if color == "rgb" else cv2.IMREAD_GRAYSCALE
    image: npt.NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if image is None:
        raise ValueError("cannot be decoded")
    return image


def read_image(path: Path, color: Color) -> npt.NDArray[np.uint8]:
    """Read one image file; see `decode`.

    Raises
    ------
    DataError
        If the file is missing or not a valid image; the message names the file.
    """
    try:
        return decode(read_plain(path, MAX_FILE_BYTES), color)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def read_size(path: Path) -> tuple[int, int]:
    """Return the height and width of one image file, in pixels; see `header_size` and `read_image`."""
    try:
        return header_size(read_plain(path, MAX_FILE_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def fit(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Crop the largest central part with the target aspect ratio, and resize it to `height` by `width` pixels.

    Images are shrunk by averaging over areas (``INTER_AREA``), which avoids aliasing, and enlarged by bilinear
    interpolation.
    """
    import cv2

    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    cut_rows, cut_columns = (
        min(rows, columns * height // width or 1),
        min(columns, rows * width // height or 1),
    )
    top, left = (rows - cut_rows) // 2, (columns - cut_columns) // 2
    piece = image[top : top + cut_rows, left : left + cut_columns]
    how = cv2.INTER_AREA if cut_rows >= height else cv2.INTER_LINEAR
    fitted: npt.NDArray[np.uint8] = cv2.resize(piece, (width, height), interpolation=how)
    return fitted


def through_jpeg(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """Return an (H, W) or (H, W, 3) RGB image after JPEG compression of this quality (1 to 100)."""
    import cv2

    colour = image.ndim == 3
    ordered = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if colour else image
    done, encoded = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"OpenCV could not encode an image of shape {image.shape} as JPEG")
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB if colour else cv2.IMREAD_GRAYSCALE))


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[12:16] != b"IHDR" or b"IEND" not in data[-64:]:
        raise ValueError("truncated PNG")
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start-of-frame segment
            # OpenCV silently fills the missing part of a truncated file with grey. Search only after this segment:
            # a thumbnail before it has its own end marker. Cameras may append data after the end marker.
            if data.find(b"\xff\xd9", at) < 0:
                raise ValueError("truncated JPEG")
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    raise ValueError("truncated JPEG, or one without a frame header")


_PGM_HEADER = re.compile(rb"P([25])(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,5})\s")


def _pgm_size(data: bytes) -> tuple[int, int]:
    header = _PGM_HEADER.match(data[:4096])
    if header is None:
        raise ValueError("PGM without a valid header")
    kind, width, height, largest = (int(number) for number in header.groups())
    available = len(data) - header.end()
    if kind == 5:
        stated = width * height * (1 if largest < 256 else 2)
    else:
        stated, available = width * height, len(data[header.end() :].split())
    if available < stated:
        raise ValueError(f"truncated PGM: {available:,} of {stated:,} {'bytes' if kind == 5 else 'values'}")
    return height, width
