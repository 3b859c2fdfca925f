"""Image files are read as Pillow, an independent reader, reads them; resizing agrees with Pillow's."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mifsim.data.image_files import decode, decode_noting_transparency, read_image
from mifsim.data.image_headers import read_header
from mifsim.data.preprocessing import fit

ROWS, COLUMNS = 18, 28
RAMP = np.add.outer(np.arange(ROWS) * 7, np.arange(COLUMNS) * 4).astype(np.uint8)
COLOURS = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)
ALPHA = np.tile(np.linspace(0, 255, COLUMNS).astype(np.uint8), (ROWS, 1))
RGB = Image.fromarray(COLOURS)
RGBA = Image.fromarray(np.dstack([COLOURS, ALPHA]))
PALETTE = RGB.quantize(16)


def stored(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


FILES = {
    "rgb png": stored(RGB, "PNG"),
    "grey png": stored(RGB.convert("L"), "PNG"),
    "1-bit png": stored(RGB.convert("1"), "PNG"),
    "palette png": stored(PALETTE, "PNG"),
    "palette png with 4 bits": stored(PALETTE, "PNG", bits=4),
    "palette png with a transparent colour": stored(PALETTE, "PNG", transparency=3),
    "palette png with opacities": stored(PALETTE, "PNG", transparency=bytes(range(0, 256, 16))),
    "rgb png with a transparent colour": stored(RGB, "PNG", transparency=tuple(COLOURS[3, 5].tolist())),
    "grey png with a transparent value": stored(
        RGB.convert("L"), "PNG", transparency=RGB.convert("L").getpixel((5, 3))
    ),
    "rgba png": stored(RGBA, "PNG"),
    "grey png with alpha": stored(RGBA.convert("LA"), "PNG"),
    "progressive jpeg": stored(RGB, "JPEG", progressive=True),
    "rgb jpeg": stored(RGB, "JPEG", quality=90),
    "grey jpeg": stored(RGB.convert("L"), "JPEG"),
    "cmyk jpeg": stored(RGB.convert("CMYK"), "JPEG", quality=95),
    "webp": stored(RGB, "WEBP", quality=80),
    "lossless webp": stored(RGB, "WEBP", lossless=True),
    "lossless webp with alpha": stored(RGBA, "WEBP", lossless=True, exact=True),
    "webp with alpha": stored(RGBA, "WEBP", quality=80),
    "animated webp": stored(RGB, "WEBP", lossless=True, save_all=True, append_images=[ImageOps.invert(RGB)]),
    "animated png": stored(RGB, "PNG", save_all=True, append_images=[ImageOps.invert(RGB)]),
    "animated png whose image is no frame": stored(
        RGB, "PNG", save_all=True, default_image=True, append_images=[ImageOps.invert(RGB), RGB]
    ),
    "pgm": stored(RGB.convert("L"), "PPM"),
}
TRANSPARENT = {
    name for name in FILES if "alpha" in name or "transparent" in name or "opacities" in name or "rgba" in name
}


def assert_close(read, expected, most=1):
    assert read.shape == np.shape(expected)
    assert np.abs(read.astype(int) - np.asarray(expected, int)).max() <= most


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_as_pillow_converts_it(name):
    """By default, transparency is ignored, as ``convert("RGB")`` ignores it."""
    data = FILES[name]
    most = 2 if "cmyk" in name else 1  # whose conversion no standard defines
    assert_close(decode(data, "rgb"), opened(data).convert("RGB"), most)
    assert_close(decode(data, "grey"), opened(data).convert("RGB").convert("L"), most)
    assert read_header(data).shown == (ROWS, COLUMNS)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("background", [(255, 255, 255), (200, 30, 90)])
def test_a_transparent_image_is_shown_on_the_background(name, background):
    data, most = FILES[name], 2 if "cmyk" in name else 1
    ground = Image.new("RGBA", (COLUMNS, ROWS), background)
    expected = Image.alpha_composite(ground, opened(data).convert("RGBA")).convert("RGB")
    decoded = decode_noting_transparency(data, "rgb", background)
    assert_close(decoded.pixels, expected, most)
    assert decoded.transparent == (name in TRANSPARENT)
    assert_close(decode(data, "grey", background), expected.convert("L"), most)


def test_an_opaque_alpha_channel_is_not_transparent():
    opaque = Image.fromarray(np.dstack([COLOURS, np.full_like(ALPHA, 255)]))
    assert not decode_noting_transparency(stored(opaque, "PNG"), "rgb", (0, 0, 0)).transparent


DEEP = np.linspace(0, 65535, ROWS * COLUMNS).astype(np.uint16).reshape(ROWS, COLUMNS)


def test_the_upper_8_of_16_bits_are_kept():
    grey = stored(Image.fromarray(DEEP), "PNG")
    upper = np.asarray(opened(grey)) >> 8  # Pillow keeps 16 bits of grey
    assert_close(decode(grey, "grey"), upper, most=0)
    assert_close(decode(grey, "rgb"), np.stack([upper] * 3, axis=-1), most=0)
    for channels in (3, 4):
        deep = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1], DEEP[::-1, ::-1]][:channels], axis=-1)
        data = cv2.imencode(".png", deep)[1].tobytes()
        assert_close(decode(data, "rgb"), opened(data).convert("RGB"), most=0)
        ground = Image.new("RGBA", (COLUMNS, ROWS), (9, 9, 9))
        expected = Image.alpha_composite(ground, opened(data).convert("RGBA")).convert("RGB")
        assert_close(decode(data, "rgb", (9, 9, 9)), expected)


@pytest.mark.parametrize("white", [1, 15, 100, 255, 1000, 4095, 65535])
@pytest.mark.parametrize("text", [False, True])
def test_a_pgm_files_white_is_white(white, text):
    values = np.linspace(0, white, 12).round().astype(int)
    written = values.astype("u1" if white < 256 else ">u2").tobytes()
    if text:
        written = b" ".join(b"%d" % value for value in values)
    data = b"P%d\n# by hand\n4 3\n%d\n" % (2 if text else 5, white) + written
    pillow = np.asarray(opened(data), int)
    assert_close(decode(data, "grey"), pillow if white < 256 else pillow >> 8, most=0)
    assert decode(data, "grey").max() == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [*range(10)])
def test_images_are_turned_as_their_exif_orientation_says(kind, order, orientation, tmp_path):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a camera"  # an entry before the orientation
    exif[0x0112] = orientation
    for image in (RGB, RGBA) if kind != "JPEG" else (RGB, RGB.convert("L")):
        data = stored(image, kind, exif=exif, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
        shown = ImageOps.exif_transpose(opened(data)).convert("RGB")
        assert shown.height == (COLUMNS if 5 <= orientation <= 8 else ROWS)
        assert read_header(data).shown == (shown.height, shown.width)
        assert_close(decode(data, "rgb"), shown, most=0)
        assert_close(decode(data, "grey"), shown.convert("L"))
        ground = Image.new("RGBA", shown.size, (255, 0, 0))
        on_red = Image.alpha_composite(ground, ImageOps.exif_transpose(opened(data)).convert("RGBA"))
        assert_close(decode(data, "rgb", (255, 0, 0)), on_red.convert("RGB"))
        (tmp_path / "image").write_bytes(data)
        assert_close(read_image(tmp_path / "image", "rgb"), shown, most=0)


@pytest.mark.parametrize("how", ["cut", "squash", "pad"])
@pytest.mark.parametrize("image", [COLOURS, RAMP], ids=["rgb", "grey"])
def test_shrinking_averages_over_areas_as_pillows_box_filter(how, image):
    rows, columns = ROWS // 2, COLUMNS // 2
    expected = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BOX))
    assert_close(fit(image, rows, columns, how), expected)


def test_the_three_ways_of_fitting_a_wide_image():
    """24 x 8 pixels to 8 x 8: cut keeps the middle third, squash averages three columns, pad adds two bars."""
    wide = np.random.default_rng(3).integers(0, 256, (8, 24, 3), np.uint8)
    assert_close(fit(wide, 8, 8, "cut"), wide[:, 8:16], most=0)
    squashed = Image.fromarray(wide).resize((8, 8), Image.Resampling.BOX)
    assert_close(fit(wide, 8, 8, "squash"), squashed)
    shrunk = Image.fromarray(wide[:6]).resize((8, 2), Image.Resampling.BOX)
    padded = np.full((8, 8, 3), (10, 20, 30))
    padded[3:5] = shrunk
    assert_close(fit(wide[:6], 8, 8, "pad", (10, 20, 30)), padded)
    assert fit(wide[:6, :, 0], 8, 8, "pad", (10, 20, 30))[0, 0] == 18  # 0.299 · 10 + 0.587 · 20 + 0.114 · 30
    assert fit(wide[:6].swapaxes(0, 1), 8, 8, "pad").max(axis=(0, 2)).nonzero()[0].tolist() == [3, 4]


@pytest.mark.parametrize("how", ["cut", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (8, 8), (5, 9), (40, 3), (3, 40)])
def test_a_flat_image_stays_flat_in_any_size(how, size):
    fitted = fit(np.full((*size, 3), 77, np.uint8), 8, 8, how, (77, 77, 77))
    assert fitted.shape == (8, 8, 3)
    assert (fitted == 77).all()
