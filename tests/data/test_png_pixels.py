"""Damaged pixels of PNG and PGM files are refused; OpenCV and numpy would return what is in the memory."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mifsim.data.image_files import decode
from mifsim.data.png_pixels import check_png_pixels
from tests.data.fuzzed_images import png_chunk

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ROWS = b"".join(bytes([row % 5]) + bytes(range(row, row + 9)) for row in range(3, 12))  # 9 rows of 9 grey pixels


def png(pixels, width=9, height=9, bits=8, colour=0, interlace=0, pieces=1):
    """Return a PNG file whose chunks have right checksums, whatever is in its pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    step = -(-len(pixels) // pieces)
    data = b"".join(png_chunk(b"IDAT", pixels[at : at + step]) for at in range(0, len(pixels), step))
    return SIGNATURE + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("pieces", [1, 3, 1000])
def test_complete_pixels_are_accepted_in_any_number_of_chunks(pieces):
    file = png(zlib.compress(ROWS), pieces=pieces)
    check_png_pixels(file)
    assert np.array_equal(decode(file, "grey"), np.asarray(Image.open(io.BytesIO(file))))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (zlib.compress(ROWS[:-1]), "truncated PNG: 89 of 90 bytes of pixels"),
        (zlib.compress(ROWS)[:12], "truncated PNG"),
        (zlib.compress(b""), "truncated PNG: 0 of 90 bytes of pixels"),
        (zlib.compress(ROWS[:20] + b"\x05" + ROWS[21:]), "a row has filter 5; accepted: 0 to 4"),
        (b"no pixels", "cannot be decompressed"),
        (zlib.compress(ROWS)[:-1] + b"\x00", "cannot be decompressed"),
    ],
    ids=["a byte is missing", "the stream is cut", "no pixel", "filter", "no stream", "checksum"],
)
def test_incomplete_or_damaged_pixels_are_refused(pixels, message):
    with pytest.raises(ValueError, match=message):
        decode(png(pixels), "grey")


def test_data_after_the_pixels_are_accepted():
    assert decode(png(zlib.compress(ROWS + b"more")), "grey").shape == (9, 9)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 1), (1, 9), (8, 8), (17, 13)])
@pytest.mark.parametrize("bits", [1, 8])
def test_interlaced_files_have_the_rows_of_seven_passes(size, bits):
    """The bytes are counted pixel by pixel here: pixel (x, y) belongs to the first pass whose grid contains it."""
    width, height = size
    grids = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows: dict[tuple[int, int], int] = {}
    for y in range(height):
        for x in range(width):
            for number, (left, top, right, down) in enumerate(grids):
                if (x - left) % right == 0 and x >= left and (y - top) % down == 0 and y >= top:
                    rows[number, y] = rows.get((number, y), 0) + 1
                    break
    total = sum(1 + (pixels * bits + 7) // 8 for pixels in rows.values())
    whole = png(zlib.compress(bytes(total)), width, height, bits, 0, 1)
    check_png_pixels(whole)
    assert decode(whole, "grey").shape == (height, width)
    with pytest.raises(ValueError, match=f"{total - 1} of {total} bytes"):
        check_png_pixels(png(zlib.compress(bytes(total - 1)), width, height, bits, 0, 1))


@pytest.mark.parametrize("text", [b"P2\n3 2\n9\n1 2 3 4 5    ", b"P2\n3 2\n9\n1 2 3 4 5\n\n\n"])
def test_a_text_with_too_few_values_is_refused(text):
    with pytest.raises(ValueError, match="truncated PGM: 5 of 6 values"):
        decode(text, "grey")
