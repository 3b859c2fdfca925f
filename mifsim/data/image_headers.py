"""Headers of untrusted image files: size, orientation and transparency, found without decoding the image."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"

PGM_HEADER = re.compile(rb"P([25])(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,5})\s")
"""Header of a PGM file: kind (2: text, 5: binary), width, height and the value of white."""

_ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""

_WHOLE_NUMBERS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}
"""Types of EXIF values that Pillow reads as a whole number, with their struct formats; the standard has type 3."""

PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Number of channels by the colour type of a PNG file."""

_FIRST_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers of a start-of-frame segment."""


class Header(NamedTuple):
    """What the header of an image file states.

    Attributes
    ----------
    rows, columns : int
        Height and width of the stored image, in pixels.
    orientation : int
        EXIF orientation, 1 to 8: the position of the stored image's first row and column when the image is shown. 1: as
        it is stored.
    transparent : bool
        Whether the file has an alpha channel or a transparent colour.
    channels : int
        Number of values of a stored pixel; those of a palette are colours, and have 3.
    """

    rows: int
    columns: int
    orientation: int = 1
    transparent: bool = False
    channels: int = 1

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width as the image is shown: orientations 5 to 8 exchange the two sides."""
        return (self.columns, self.rows) if self.orientation >= 5 else (self.rows, self.columns)


_OTHERS = (
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"P6", "a PPM image"),
    (b"\x1f\x8b", "compressed with gzip"),
)
"""First bytes of files of other kinds, and the names of these."""


def read_header(data: bytes) -> Header:
    """Read the header of a PNG, JPEG, WebP or PGM file, and check that the file is not truncated.

    Raises
    ------
    ValueError
        If the data is none of them, is truncated or otherwise damaged, or has no pixel.
    """
    if not data:
        raise ValueError("empty")
    if data.startswith(PNG):
        header = _png(data)
    elif data.startswith(b"\xff\xd8"):
        header = _jpeg(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        header = _webp(data)
    elif data[:2] in (b"P2", b"P5"):
        header = _pgm(data)
    else:
        found = next((name for start, name in _OTHERS if data.startswith(start)), "")
        if data[4:8] == b"ftyp":
            found = "an AVIF or HEIC image"
        raise ValueError(
            f"{found}, which is not read; convert it to PNG" if found else "neither PNG, JPEG, WebP nor PGM"
        )
    if not header.rows or not header.columns:
        raise ValueError(f"{header.columns} x {header.rows} pixels; accepted: at least 1 x 1")
    return header


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and content of each chunk of a PNG file up to its last, IEND.

    Raises
    ------
    ValueError
        If the file ends earlier, or a chunk does not have its checksum.
    """
    at = len(PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        kind, content = data[at + 4 : at + 8], data[at + 8 : end - 4]
        # Pillow refuses such a file too; what OpenCV does depends on the chunk and on the version of libpng.
        if zlib.crc32(content, zlib.crc32(kind)) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"damaged PNG: the checksum of its chunk {kind!r} is wrong")
        yield kind, content
        if kind == b"IEND":
            return
        at = end
    raise ValueError("truncated PNG")


def _png(data: bytes) -> Header:
    rows = columns = 0
    kind_of_colour, orientation, transparent = -1, 1, False
    for number, (kind, content) in enumerate(png_chunks(data)):
        if number == 0:
            if kind != b"IHDR" or len(content) != 13:
                raise ValueError("damaged PNG: it does not start with a header")
            columns, rows, _, kind_of_colour = struct.unpack_from(">IIBB", content)
        elif kind == b"tRNS":
            transparent = True
        elif kind == b"eXIf":
            orientation = exif_orientation(content)
    channels = PNG_CHANNELS.get(kind_of_colour, 1)
    return Header(rows, columns, orientation, transparent or kind_of_colour in (4, 6), channels)


def _jpeg(data: bytes) -> Header:
    at, orientation = 2, None
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _FIRST_FRAMES:
            # OpenCV silently fills the missing part of a truncated file with grey. Search only after this segment:
            # a thumbnail before it has its own end marker. Cameras may append data after the end marker.
            if data.find(b"\xff\xd9", at) < 0:
                raise ValueError("truncated JPEG")
            rows, columns = struct.unpack_from(">HH", data, at + 5)
            return Header(rows, columns, orientation or 1, channels=data[at + 9] if at + 9 < len(data) else 1)
        if marker == 0xE1 and orientation is None and data.startswith(b"Exif\0\0", at + 4):
            orientation = exif_orientation(data[at + 10 : at + 2 + length])
        at += 2 + max(2, length)
    raise ValueError("truncated JPEG, or one without a frame header")


def _webp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 4)
    if 8 + length > len(data):
        raise ValueError("truncated WebP")
    rows = columns = 0
    orientation, transparent, extended = 1, False, False
    at, end = 12, 8 + length
    while at + 8 <= end:
        kind, (size,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        content = data[at + 8 : at + 8 + size]
        if at + 8 + size > end:
            raise ValueError("truncated WebP")
        if kind == b"VP8X" and size >= 10:
            extended, transparent = True, bool(content[0] & 0x10)
            columns, rows = (1 + int.from_bytes(content[i : i + 3], "little") for i in (4, 7))
        elif kind == b"VP8L" and size >= 5 and not extended:
            (bits,) = struct.unpack_from("<I", content, 1)
            columns, rows = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
            transparent = bool(bits >> 28 & 1)
        elif kind == b"VP8 " and size >= 10 and not extended:
            columns, rows = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 6))
        elif kind == b"EXIF":
            orientation = exif_orientation(content)
        at += 8 + size + size % 2
    return Header(rows, columns, orientation, transparent, 4 if transparent else 3)


def _pgm(data: bytes) -> Header:
    header = PGM_HEADER.match(data[:4096])
    if header is None:
        raise ValueError("PGM without a valid header")
    kind, columns, rows, white = (int(number) for number in header.groups())
    if not 1 <= white <= 65535:
        raise ValueError(f"PGM whose white is {white}; accepted: 1 to 65535")
    available = len(data) - header.end()
    # A value of a text file takes at least two bytes, with the space before the next one.
    stated = columns * rows * 2 - 1 if kind == 2 else columns * rows * (1 if white < 256 else 2)
    if available < stated:
        raise ValueError(f"truncated PGM: {available:,} of at least {stated:,} bytes")
    return Header(rows, columns)


def exif_orientation(block: bytes) -> int:
    """Return the orientation in a block of EXIF data (a TIFF header and its first directory); 1 if it has none."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", block, 4)
    if start + 2 > len(block):
        return 1
    (entries,) = struct.unpack_from(order + "H", block, start)
    for at in range(start + 2, min(start + 2 + 12 * entries, len(block) - 11), 12):
        tag, kind, count = struct.unpack_from(order + "HHI", block, at)
        if tag == _ORIENTATION:
            if count != 1 or kind not in _WHOLE_NUMBERS:
                return 1
            (value,) = struct.unpack_from(order + _WHOLE_NUMBERS[kind], block, at + 8)
            return value if 1 <= value <= 8 else 1
    return 1
