"""What the detector and the model both see: from the bytes or numbers of a request to pixels, and back.

An image is decoded once. The model server receives the pixels that the detector judged, so that two decoders cannot
disagree about an image.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mifsim.defense.images import Pixels, admit
from mifsim.errors import InvalidImage
from mifsim.guard.plain_png import read_plain_png
from mifsim.guard.png_kernels import pack_rows
from mifsim.guard.refusals import Refused
from mifsim.study.wire import Transport

if TYPE_CHECKING:
    from mifsim.data.preprocessing import Preprocessing

PNG, JPEG, WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"
_BLOCK = 0xFFFF

Numbers = npt.NDArray[Any]

Sent = bytes | Numbers
"""An image as a client sends it: the bytes of a file, or an array of one of the shapes in `Arrival.array_shapes`."""


@dataclass(frozen=True)
class Arrival:
    """The way from a request to pixels, and back.

    Attributes
    ----------
    shape : tuple of int
        Shape of the images that the model takes, (H, W) or (H, W, C).
    transport : Transport
        Applied to every image, as in the simulation.
    white : {1, 255}
        Value of a white pixel in arrays of other types than uint8.
    layout : {"channels-last", "channels-first"}
        Order of the dimensions of arrays.
    original : bool
        Whether the model server receives the client's bytes.
    fit, background
        How a file of another size is brought to the shape; see `mifsim.data.preprocessing.Preprocessing`.
    """

    shape: tuple[int, ...]
    transport: Transport
    white: int = 1
    layout: Literal["channels-last", "channels-first"] = "channels-last"
    original: bool = False
    fit: Literal["cut", "squash", "pad"] = "cut"
    background: tuple[int, int, int] | None = None

    @property
    def array_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of arrays that are accepted for one image; the first one is used for new arrays."""
        height, width, channels = (*self.shape, 1)[:3]
        full = (height, width, channels) if self.layout == "channels-last" else (channels, height, width)
        return (full, (height, width)) if channels == 1 else (full,)

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        from mifsim.data.preprocessing import Preprocessing

        shape = self.shape if self.shape[2:] == (3,) else self.shape[:2]
        return Preprocessing(shape, self.fit, self.background)

    def from_file(self, data: bytes) -> Pixels:
        """Return the pixels of a PNG, JPEG or WebP file, brought to the model's shape.

        Raises
        ------
        Refused
            If the data is not such a file, or is damaged.
        """
        if not (data.startswith((PNG, JPEG)) or (data.startswith(WEBP) and data[8:12] == b"WEBP")):
            raise Refused("wrong-type", "the image is neither PNG, JPEG nor WebP")
        try:
            plain = read_plain_png(data, self.shape[2:] == (3,))
            image = self._preprocessing.read(data) if plain is None else self._preprocessing.fitted(plain)
            return self._arrived(image.reshape(self.shape))
        except ValueError as error:  # InvalidImage is one
            raise Refused("no-image", f"the image cannot be read: {error}") from None

    def from_array(self, values: Numbers) -> Pixels:
        """Return the pixels of an array of one of the shapes in `array_shapes`.

        Raises
        ------
        Refused
            If its shape, type or values are not accepted.
        """
        canonical = self._canonical(values)
        try:
            return self._arrived(canonical)
        except InvalidImage as error:
            hint = "" if self.white == 255 else " (this server takes values from 0 to 1)"
            raise Refused("no-image", f"{error}{hint}") from None

    def exact(self, values: Numbers) -> Numbers:
        """Return an array that `from_array` accepts as it was before the transport.

        Returns
        -------
        ndarray
            Of the model's shape: uint8, or float32 from 0 to 1. A simulation with the same transport judges the same
            pixels.
        """
        canonical = self._canonical(values)
        return canonical if canonical.dtype == np.uint8 else admit(canonical)

    def _canonical(self, values: Numbers) -> Numbers:
        """Return an array in the model's shape: uint8, or floats of which 1 is white."""
        if values.shape not in self.array_shapes:
            accepted = " or ".join(str(shape) for shape in self.array_shapes)
            raise Refused("no-image", f"got an image of shape {values.shape}; accepted: {accepted}")
        if self.layout == "channels-first" and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
        values = values.reshape(self.shape)
        if values.dtype.kind in "iu" and values.dtype != np.uint8:
            values = values.astype(np.float64)
        if values.dtype != np.uint8 and self.white == 255:
            if values.dtype.kind != "f":
                raise Refused("no-image", f"got values of type {values.dtype}; accepted: numbers")
            values = (values.astype(np.float64) / 255.0).astype(np.float32)
        return values

    def _arrived(self, image: Numbers) -> Pixels:
        # Validated before any session is looked up: a refused request must not change one.
        return self.transport.arrive(admit(image))

    def to_file(self, pixels: Pixels) -> bytes:
        """Return a PNG file of pixels with 8 bits, which all pixels from files have."""
        height = len(pixels)
        rows = np.empty((height, 1 + pixels.size // height), np.uint8)
        pack_rows(pixels, rows)
        return _png_of(rows.tobytes(), pixels.shape)

    def warm_up(self) -> None:
        """Compile what reads and writes files."""
        self.from_file(self.to_file(np.zeros(self.shape, np.float32)))

    def to_array(self, pixels: Pixels, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Numbers:
        """Return pixels in the shape and type in which the client sent them; integers become float32.

        Parameters
        ----------
        pixels : ndarray of float32
        shape : tuple of int
            One of `array_shapes`.
        dtype : dtype
            The client's type.
        """
        values: Numbers = pixels
        if dtype == np.uint8:
            values = np.rint(pixels * np.float32(255)).astype(np.uint8)
        elif self.white == 255:
            values = _times_255(pixels)
        if self.layout == "channels-first" and len(self.shape) == 3 and len(shape) == 3:
            values = np.moveaxis(values, -1, 0)
        values = np.ascontiguousarray(values).reshape(shape)
        return values.astype(dtype) if dtype.kind == "f" else values


def _times_255(pixels: Pixels) -> Pixels:
    """Return pixels from 0 to 255; those that came from whole numbers are whole numbers again."""
    scaled = pixels.astype(np.float64) * 255.0
    whole = np.rint(scaled)
    exact = (whole / 255.0).astype(np.float32) == pixels
    values: Pixels = np.where(exact, whole, scaled).astype(np.float32)
    return values


def write_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return an image as a PNG file with nothing but its pixels, which are not compressed.

    Compression would take longer than everything else that is done with the image. The file has no chunk that decoders
    treat differently, such as gamma or transparency.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W), (H, W, 1) or (H, W, 3)
    """
    height = len(image)
    rows = np.zeros((height, 1 + image.size // height), np.uint8)  # the first byte of each row: no filter
    rows[:, 1:] = image.reshape(height, -1)
    return _png_of(rows.tobytes(), image.shape)


def _png_of(rows: bytes, shape: tuple[int, ...]) -> bytes:
    """Return a PNG file with rows, each of which begins with the number of its filter."""
    return b"".join((_png_start(shape), _chunk(b"IDAT", _stored(rows)), _PNG_END))


@lru_cache(maxsize=16)
def _png_start(shape: tuple[int, ...]) -> bytes:
    colour = 2 if shape[2:] == (3,) else 0
    return PNG + _chunk(b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], 8, colour, 0, 0, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))


_PNG_END = _chunk(b"IEND", b"")


def _stored(data: bytes) -> bytes:
    """Return data in zlib's format (RFC 1950), in blocks without compression."""
    parts = [b"\x78\x01"]
    last = len(data) - 1
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        parts += (struct.pack("<BHH", start + _BLOCK > last, len(block), len(block) ^ 0xFFFF), block)
    parts.append(struct.pack(">I", zlib.adler32(data)))
    return b"".join(parts)
