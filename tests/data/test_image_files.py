"""Image files: size from the header, decoding, errors, and fitting to a size."""

import gzip
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mifsim.data.image_files import decode, read_image
from mifsim.data.image_headers import read_header
from mifsim.data.preprocessing import fit
from mifsim.errors import DataError

COLOR = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def encode(ending, image=COLOR):
    encoded, data = cv2.imencode(ending, image[..., ::-1] if image.ndim == 3 else image)
    assert encoded
    return data.tobytes()


@pytest.mark.parametrize("ending", [".png", ".jpg", ".pgm"])
def test_the_header_gives_the_size(ending):
    assert read_header(encode(ending, COLOR if ending != ".pgm" else COLOR[..., 0])).shown == (30, 40)


def test_colours_come_back_in_the_order_red_green_blue():
    np.testing.assert_array_equal(decode(encode(".png"), "rgb"), COLOR)
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    assert decode(encode(".jpg", red), "rgb")[8, 8] == pytest.approx([255, 0, 0], abs=3)


def test_grey_is_read_as_grey_and_spread_over_three_channels_for_rgb():
    grey = COLOR[..., 0]
    np.testing.assert_array_equal(decode(encode(".pgm", grey), "grey"), grey)
    np.testing.assert_array_equal(decode(encode(".pgm", grey), "rgb"), np.stack([grey] * 3, axis=-1))


def test_a_plain_text_pgm_with_comments_is_read():
    text = b"P2\n# made by hand\n3 2\n# and more\n255\n0 10 20\n30 40 50\n"
    assert decode(text, "grey").tolist() == [[0, 10, 20], [30, 40, 50]]


@pytest.mark.parametrize("ending", [".png", ".jpg", ".pgm"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_a_truncated_file_is_refused(ending, kept):
    whole = encode(ending, COLOR if ending != ".pgm" else COLOR[..., 0])
    with pytest.raises(ValueError, match="truncated"):
        decode(whole[: int(len(whole) * kept)], "rgb")


def test_a_thumbnails_end_marker_does_not_hide_a_truncated_image():
    whole = encode(".jpg")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 6) + b"xx\xff\xd9yy"
    cut = whole[:2] + thumbnail + whole[2 : len(whole) // 2]
    with pytest.raises(ValueError, match="truncated"):
        decode(cut, "rgb")


def png_with_stated_size(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header():
    bomb = png_with_stated_size(100_000, 100_000)
    assert len(bomb) < 200
    with pytest.raises(ValueError, match="100000 x 100000 pixels; accepted: at most 67,108,864"):
        decode(bomb, "rgb")


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a" + bytes(50), b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"P5 x"])
def test_a_file_that_is_not_an_image_is_refused(data, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"picture\.png"):
        read_image(path, "rgb")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("GIF", "a GIF image"), ("BMP", "a BMP image"), ("TIFF", "a TIFF image"), ("PPM", "a PPM image"),
     ("JPEG2000", "a JPEG 2000 image"), ("AVIF", "an AVIF or HEIC image")],
)  # fmt: skip
def test_images_of_other_kinds_are_named(kind, name):
    file = io.BytesIO()
    Image.fromarray(COLOR).save(file, kind)
    with pytest.raises(ValueError, match=f"^{name}, which is not read; convert it to PNG$"):
        decode(file.getvalue(), "rgb")


def test_other_files_that_people_store_as_images_are_named():
    array = io.BytesIO()
    np.save(array, COLOR)
    for data, name in ((array.getvalue(), "a NumPy array"), (gzip.compress(encode(".png")), "compressed with gzip")):
        with pytest.raises(ValueError, match=f"^{name}, which is not read"):
            decode(data, "rgb")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: cannot be read: No such file"):
        read_image(tmp_path / "gone.png", "rgb")


@given(
    st.binary(max_size=60),
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"P5 ", b"P2 "]),
)
def test_any_bytes_are_either_decoded_or_refused(tail, magic):
    try:
        image = decode(magic + tail, "rgb")
    except ValueError:
        return
    assert image.ndim == 3


@given(
    rows=st.integers(1, 50),
    columns=st.integers(1, 50),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_fit_gives_the_requested_size_and_keeps_a_flat_image_flat(rows, columns, height, width):
    fitted = fit(np.full((rows, columns, 3), 77, np.uint8), height, width)
    assert fitted.shape == (height, width, 3)
    assert (fitted == 77).all()


def test_fit_crops_around_the_centre_and_averages():
    wide = np.zeros((2, 6), np.uint8)
    wide[:, 2:4] = [[10, 20], [30, 40]]
    wide[:, :2] = wide[:, 4:] = 255
    assert fit(wide, 1, 1).tolist() == [[25]]
