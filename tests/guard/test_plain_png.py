"""The reader of plain PNG files agrees with Pillow and OpenCV, and leaves everything else to the other reader."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mifsim.data.image_files import decode
from mifsim.guard.plain_png import read_plain_png
from tests.data.fuzzed_images import png_chunk

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIZES = [(1, 1), (1, 7), (6, 1), (5, 4), (28, 28)]


def png(rows, width, height, colour=0, bits=8, interlace=0, between=b"", level=6):
    """Return a PNG file with these rows, each of which starts with its filter."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    data = png_chunk(b"IDAT", zlib.compress(rows, level))
    return SIGNATURE + png_chunk(b"IHDR", header) + between + data + png_chunk(b"IEND", b"")


def with_pillow(file):
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize("rgb", [False, True], ids=["grey", "rgb"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 2, 0, 3, 1]], ids=str)
def test_all_filters_are_undone_as_pillow_undoes_them(filters, size, rgb):
    height, width = size
    rng = np.random.default_rng(len(filters) + 7 * width)
    stride = width * (3 if rgb else 1)
    rows = b"".join(bytes([filters[row % len(filters)]]) + rng.bytes(stride) for row in range(height))
    file = png(rows, width, height, 2 if rgb else 0)
    pixels = read_plain_png(file, rgb)
    assert pixels is not None
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, with_pillow(file))
    np.testing.assert_array_equal(decode(file, "rgb" if rgb else "grey"), pixels)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_files_of_pillow_are_read(mode, level):
    x, y = np.meshgrid(np.arange(40), np.arange(30))
    smooth = (127 + 100 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8)
    image = smooth if mode == "L" else np.stack([smooth, smooth.T.reshape(30, 40), 255 - smooth], axis=2)
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "PNG", compress_level=level)
    np.testing.assert_array_equal(read_plain_png(stored.getvalue(), mode == "RGB"), image)


ROWS = bytes([0, 1, 2, 3, 0, 4, 5, 6])
PLAIN = png(ROWS, 3, 2)


def flipped(file, at):
    return file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]


@pytest.mark.parametrize(
    "file",
    [
        PLAIN + b"more",
        PLAIN[:-1],
        PLAIN[:20],
        b"",
        png(ROWS, 3, 2, between=png_chunk(b"gAMA", struct.pack(">I", 45455))),
        png(ROWS, 3, 2, between=png_chunk(b"tRNS", b"\0\1")),
        png(bytes([0, 1, 2]), 1, 1, bits=16),
        png(bytes([0, 1, 0, 1]), 3, 2, bits=1),
        png(bytes([0, 1, 2]), 1, 1, colour=4),
        png(bytes([0, 7, 0, 7]), 1, 2, interlace=1),
        png(ROWS[:4] + b"\5" + ROWS[5:], 3, 2),
        png(ROWS[:-1], 3, 2),
        png(ROWS + b"\0", 3, 2),
        png(b"", 0, 2),
        png(bytes(2**20 + 1024), 1023, 1025),
        flipped(PLAIN, 17),  # the width
        flipped(PLAIN, 30),  # the header's checksum
        flipped(PLAIN, 43),  # the pixels
        flipped(PLAIN, len(PLAIN) - 14),  # their checksum
    ],
    ids=[
        "more", "cut", "start", "empty", "gamma", "transparent", "16 bits", "1 bit", "alpha", "interlaced", "filter",
        "too few rows", "too many", "no pixel", "large", "width", "header checksum", "pixels", "checksum",
    ],
)  # fmt: skip
def test_all_other_files_are_left_to_the_other_reader(file):
    assert read_plain_png(file, rgb=False) is None


def test_a_file_of_the_other_colour_is_left_to_the_other_reader():
    assert read_plain_png(PLAIN, rgb=True) is None
    np.testing.assert_array_equal(decode(PLAIN, "rgb"), np.repeat(with_pillow(PLAIN)[..., None], 3, axis=2))


def test_a_small_file_cannot_fill_the_memory():
    """It states six pixels, and its rows would take 64 MiB."""
    file = png(bytes(64 * 2**20), 3, 2, level=9)
    assert len(file) < 100_000
    assert read_plain_png(file, rgb=False) is None
