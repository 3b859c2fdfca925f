"""Image files: size from the header, decoding, errors, and fitting to a size."""

import gzip
import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mifsim.data import image_files
from mifsim.data.image_files import decode, read_image
from mifsim.data.image_headers import exif_orientation, read_header
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


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    """The largest take a gigabyte while they are decoded, and readers have a thread for each CPU."""
    running, most = [], []

    def observed(data, mode):
        running.append(mode)
        time.sleep(0.005)  # long enough for the other threads to come here
        most.append(len(running))
        running.pop()
        return original(data, mode)

    original = image_files._decode
    monkeypatch.setattr(image_files, "_decode", observed)
    files = [encode(".png")] * 6
    for limit in (COLOR[..., 0].size, COLOR[..., 0].size - 1):
        monkeypatch.setattr(image_files, "LARGE_PIXELS", limit)
        with ThreadPoolExecutor(3) as pool:
            decoded = list(pool.map(lambda data: decode(data, "rgb"), files))
        for pixels in decoded:
            np.testing.assert_array_equal(pixels, COLOR)
    assert max(most[:6]) > 1  # up to the limit, all threads decode
    assert max(most[6:]) == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", range(1, 14))
def test_the_orientation_is_read_in_each_type_in_which_pillow_reads_it(order, kind):
    """The standard has a short number; some writers store a long one."""
    field = struct.pack(order + {1: "B", 2: "c", 3: "H", 6: "b", 8: "h"}.get(kind, "I"),
                        b"6" if kind == 2 else 6)  # fmt: skip
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + field.ljust(4, b"\0")
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1) + entry + bytes(4)
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + block)
    expected = exif.get(0x0112, 1)
    assert exif_orientation(block) == (expected if isinstance(expected, int) and 1 <= expected <= 8 else 1)
    assert exif_orientation(block) == (6 if kind in (3, 4, 6, 8, 9, 13) else 1)
