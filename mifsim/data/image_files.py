"""Reading of untrusted PNG, JPEG, WebP and PGM files, whose headers are checked first; JPEG compression.

OpenCV decodes the files, as it does in the servers that embed the detectors. What its versions treat differently, or
not at all, is done here: orientation, transparency, and the range of PGM files. The tests compare all of it with
Pillow.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.data.image_headers import PGM_HEADER, PNG, Header, png_chunks, read_header
from mifsim.data.png_pixels import check_png_pixels
from mifsim.errors import DataError
from mifsim.limits import read_plain

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".pgm")
MAX_PIXELS = 64 * 2**20
"""Maximum number of pixels of an image: a file of a few kilobytes can state a size that takes gigabytes to decode."""

LARGE_PIXELS = 8 * 2**20
"""Images of more pixels are decoded one at a time in a process, because the largest ones take about a gigabyte."""

MAX_FILE_BYTES = 256 * 2**20
"""Maximum size of one image file, in bytes."""

_BLEND_PIXELS = 2**20
_one_large = threading.Lock()

Colour = Literal["grey", "rgb"]
Pixels = npt.NDArray[np.uint8]


def plain_name(name: object) -> str:
    """Return a file name as text that can be stored; bytes that are not UTF-8 are escaped."""
    return str(name).encode("utf-8", "backslashreplace").decode()


class Decoded(NamedTuple):
    """A decoded image.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (H, W) or (H, W, 3)
    transparent : bool
        Whether the file has pixels that are not opaque.
    """

    pixels: Pixels
    transparent: bool


def decode(data: bytes, colour: Colour, background: tuple[int, int, int] | None = None) -> Pixels:
    """Decode one image to shape (H, W), or (H, W, 3) in RGB; see `decode_noting_transparency`."""
    return decode_noting_transparency(data, colour, background).pixels


def decode_noting_transparency(data: bytes, colour: Colour, background: tuple[int, int, int] | None = None) -> Decoded:
    """Decode one image as it is shown, and find out whether it has transparent pixels.

    The image is turned as its EXIF orientation says. Of 16 bits, the upper 8 are kept. Of an animation, the first frame
    is read; of an animated PNG whose own image is no frame, that image.

    Parameters
    ----------
    data : bytes
        A PNG, JPEG, WebP or PGM file.
    colour : {"grey", "rgb"}
        Colours are converted to grey by their luma (Rec. 601); grey is repeated in three channels.
    background : tuple of int or None
        Red, green and blue, 0 to 255, on which a transparent image is shown. None: transparency is ignored, and the
        stored colours are used.

    Raises
    ------
    ValueError
        If the data is damaged, is not an image, or states more than `MAX_PIXELS`.
    """
    header = read_header(data)
    count = header.rows * header.columns
    if count > MAX_PIXELS:
        raise ValueError(f"{header.columns} x {header.rows} pixels; accepted: at most {MAX_PIXELS:,} pixels")
    with _one_large if count > LARGE_PIXELS else contextlib.nullcontext():
        return _decoded(_still(data), header, colour, background)


def _still(data: bytes) -> bytes:
    """Return a PNG file without its animation: its own image need not be a frame of it, and OpenCV reads a frame."""
    if not data.startswith(PNG) or b"acTL" not in data:
        return data
    kept = [PNG]
    for kind, content in png_chunks(data):
        if kind not in (b"acTL", b"fcTL", b"fdAT"):
            checksum = zlib.crc32(content, zlib.crc32(kind))
            kept += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)]
    return b"".join(kept)


def _decoded(data: bytes, header: Header, colour: Colour, background: tuple[int, int, int] | None) -> Decoded:
    import cv2

    if data[:2] in (b"P2", b"P5"):
        grey = _read_pgm(data, header)
        return Decoded(grey if colour == "grey" else np.repeat(grey[..., None], 3, axis=2), False)
    if data.startswith(PNG):
        check_png_pixels(data)
    transparent = False
    if header.transparent:
        layers = _decode(data, cv2.IMREAD_UNCHANGED)
        colours, alpha = _without_alpha(layers, data)
        transparent = alpha is not None and bool((alpha < 255).any())
        if transparent and background is not None:
            assert alpha is not None
            colours = _on_background(colours, alpha, background)
        pixels = colours if colour == "rgb" else cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
    else:
        mode = cv2.IMREAD_COLOR_RGB if colour == "rgb" else cv2.IMREAD_GRAYSCALE
        pixels = _decode(data, mode | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels.shape[:2] != (header.rows, header.columns):
        raise ValueError("damaged: its header states another size than its pixels have")
    return Decoded(_turned(pixels, header.orientation), transparent)


def read_bytes(path: Path) -> bytes:
    """Read an image file without decoding it.

    Raises
    ------
    DataError
        If it cannot be read, is not a regular file, or has more than `MAX_FILE_BYTES`; the message names the file.
    """
    try:
        return read_plain(path, MAX_FILE_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def read_image(path: Path, colour: Colour) -> Pixels:
    """Read one image file; see `decode`.

    Raises
    ------
    DataError
        If the file is missing or not a valid image; the message names the file.
    """
    try:
        return decode(read_bytes(path), colour)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def read_size(path: Path) -> tuple[int, int]:
    """Return the height and width of one image file as it is shown, in pixels, without decoding it.

    Raises
    ------
    DataError
        As in `read_image`.
    """
    try:
        return read_header(read_bytes(path)).shown
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def through_jpeg(image: Pixels, quality: int) -> Pixels:
    """Return an (H, W) or (H, W, 3) RGB image after JPEG compression of this quality (1 to 100)."""
    import cv2

    colour = image.ndim == 3
    ordered = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if colour else image
    done, encoded = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"OpenCV could not encode an image of shape {image.shape} as JPEG")
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB if colour else cv2.IMREAD_GRAYSCALE))


def _decode(data: bytes, mode: int) -> Any:
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    except cv2.error as error:
        raise ValueError(f"cannot be decoded: {' '.join(str(error).split())[:200]}") from None
    if image is None:
        raise ValueError("cannot be decoded")
    return image


def _without_alpha(layers: Any, data: bytes) -> tuple[Pixels, Pixels | None]:
    """Return the colours (RGB) and the opacity of an image that OpenCV read unchanged; both are 8 bits."""
    import cv2

    alpha = None
    if layers.ndim == 2:  # grey with one transparent value, which OpenCV does not apply
        alpha = _alpha_of_grey(layers, data)
    elif layers.shape[2] == 4:
        alpha, layers = layers[..., 3], layers[..., :3]
    if layers.dtype == np.uint16:
        layers = (layers >> 8).astype(np.uint8)
        alpha = None if alpha is None or alpha.dtype == np.uint8 else (alpha >> 8).astype(np.uint8)
    order = cv2.COLOR_GRAY2RGB if layers.ndim == 2 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(np.ascontiguousarray(layers), order), alpha


def _alpha_of_grey(grey: Any, data: bytes) -> Pixels | None:
    """Return the opacity of a grey PNG with a transparent value (tRNS); None if it states none."""
    if not data.startswith(PNG):
        return None
    chunks = dict(png_chunks(data))
    stated = chunks.get(b"tRNS", b"")
    bits = chunks[b"IHDR"][8]
    if len(stated) != 2:
        return None
    (value,) = struct.unpack(">H", stated)
    value = value * 255 // (2**bits - 1) if bits < 8 else value  # OpenCV scales 1, 2 and 4 bits to 8
    return np.where(grey == value, 0, 255).astype(np.uint8)


def _on_background(colours: Pixels, alpha: Pixels, background: tuple[int, int, int]) -> Pixels:
    blended = np.empty_like(colours)
    rows = max(1, _BLEND_PIXELS // colours.shape[1])  # floats of a whole large image would take a gigabyte
    for top in range(0, len(colours), rows):
        band = np.s_[top : top + rows]
        opacity = alpha[band][..., None].astype(np.float32) / np.float32(255)
        blended[band] = np.rint(colours[band] * opacity + np.asarray(background, np.float32) * (1 - opacity))
    return blended


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Turn a stored image as its EXIF orientation says (EXIF 2.32, tag 0x0112)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _read_pgm(data: bytes, header: Header) -> Pixels:
    """Read a PGM file with a valid header; OpenCV takes the values of binary files as they are, whatever white is."""
    stated = PGM_HEADER.match(data[:4096])
    assert stated is not None
    text, white = stated.group(1) == b"2", int(stated.group(4))
    count = header.rows * header.columns
    values: npt.NDArray[Any]
    if text:
        if (written := data[stated.end() :]).translate(None, b"0123456789 \t\n\r\v\f"):
            raise ValueError("damaged PGM: a value is not a whole number")
        # With a count, numpy returns so many values even if the text has fewer: what is in the memory.
        values = np.fromstring(written, np.int64, sep=" ")[:count]
        if len(values) < count:
            raise ValueError(f"truncated PGM: {len(values):,} of {count:,} values")
    else:
        values = np.frombuffer(data, np.uint8 if white < 256 else ">u2", count, stated.end())
    if values.max() > white:
        raise ValueError(f"damaged PGM: a value is outside 0 to {white}, its white")
    shaped = values.reshape(header.rows, header.columns)
    if white == 255:
        return shaped.astype(np.uint8)
    if white < 256:
        return np.rint(shaped * (255 / white)).astype(np.uint8)
    return (np.rint(shaped * (65535 / white)).astype(np.int64) >> 8).astype(np.uint8)
