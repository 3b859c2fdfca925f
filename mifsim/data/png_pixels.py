"""A check of the compressed pixels of a PNG file.

A decoder that meets damaged pixels may return the rows up to there, and whatever was in the memory below them. Two
readings of one file then differ. This check finds such files before they are decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

from mifsim.data.image_headers import png_chunks

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by type of colour: grey, RGB, palette, grey with alpha, RGB with alpha."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of interlacing (Adam7): first column, first row, and the steps of both."""
_LAST_FILTER = 4
_PIECE = 2**20


def check_png_pixels(data: bytes) -> None:
    """Check that the pixels of a PNG file are complete, and that its rows have valid filters.

    Parameters
    ----------
    data : bytes
        A file that `mifsim.data.image_headers.read_header` accepts.

    Raises
    ------
    ValueError
        If they are not. A file with more data than its pixels take is accepted.
    """
    header, compressed = b"", []
    for kind, content in png_chunks(data):
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            compressed.append(content)
    width, height, bits, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if colour not in _CHANNELS or interlace > 1:
        raise ValueError(f"damaged PNG: colour type {colour}, interlace method {interlace}")
    steps = _PASSES if interlace else ((0, 0, 1, 1),)
    parts, total = [], 0
    for left, top, right, down in steps:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            stride = 1 + (columns * bits * _CHANNELS[colour] + 7) // 8  # the first byte is the row's filter
            parts.append((total, total + rows * stride, stride))
            total += rows * stride
    position = 0
    try:
        for piece in _inflated(compressed):
            for begin, end, stride in parts:
                first = begin + -(-max(0, position - begin) // stride) * stride
                filters = piece[first - position : max(0, end - position) : stride]
                if filters and max(filters) > _LAST_FILTER:
                    raise ValueError(f"damaged PNG: a row has filter {max(filters)}; accepted: 0 to {_LAST_FILTER}")
            position += len(piece)
            if position >= total:
                return
    except zlib.error as error:
        raise ValueError(f"damaged PNG: its pixels cannot be decompressed ({error})") from None
    raise ValueError(f"truncated PNG: {position:,} of {total:,} bytes of pixels")


def _inflated(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield decompressed data in pieces, so that a small file cannot fill the memory."""
    inflater = zlib.decompressobj()
    for part in parts:
        rest = part
        while rest and not inflater.eof:
            yield inflater.decompress(rest, _PIECE)
            rest = inflater.unconsumed_tail
