"""Preprocessing: how the bytes of an image file become an image of the shape that the model receives.

The data set `folder`, the logs of queries and a server use the same description, so that what is simulated is what the
server sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.data.image_files import Decoded, Pixels, decode_noting_transparency

Fit = Literal["cut", "squash", "pad"]
Rgb = tuple[int, int, int]


class Preprocessed(NamedTuple):
    """One preprocessed image, and what preprocessing lost.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (H, W) or (H, W, 3)
    cut_away : float
        The share of the image's area that is cut away, 0 to 1.
    transparent : bool
        Whether the file has pixels that are not opaque.
    """

    pixels: Pixels
    cut_away: float
    transparent: bool


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of image files.

    An image is decoded and turned as its EXIF orientation says (see `mifsim.data.image_files.decode`), shown on the
    background if it is transparent, converted to grey or RGB, and brought to the shape's height and width.

    Attributes
    ----------
    shape : tuple of int
        Shape of the result: (H, W) for grey, (H, W, 3) for RGB.
    fit : {"cut", "squash", "pad"}
        Treatment of an image of another aspect ratio; see `fit`.
    background : tuple of int or None
        Red, green and blue, 0 to 255: the colour of padding, and of what is behind transparent pixels. None: padding is
        black, and transparency is ignored (the stored colours are used, as by Pillow's ``convert("RGB")``).

    Examples
    --------
    >>> import cv2
    >>> file = cv2.imencode(".png", np.full((8, 24), 200, np.uint8))[1].tobytes()
    >>> Preprocessing((8, 8), fit="pad").read(file)[:, 4]
    array([  0,   0, 200, 200, 200,   0,   0,   0], dtype=uint8)
    >>> Preprocessing((8, 8)).prepare(file).cut_away
    0.6666666666666667
    """

    shape: tuple[int, ...]
    fit: Fit = "cut"
    background: Rgb | None = None

    def read(self, data: bytes) -> Pixels:
        """Return the image of a file, uint8, of shape `shape`.

        Raises
        ------
        ValueError
            If the data is not a valid image; see `mifsim.data.image_files.decode`.
        """
        return self.fitted(self._decoded(data).pixels)

    def prepare(self, data: bytes) -> Preprocessed:
        """Return the image of a file, and what preprocessing lost; see `read`."""
        image, transparent = self._decoded(data)
        cut_away = share_cut_away(image.shape[:2], (self.shape[0], self.shape[1])) if self.fit == "cut" else 0.0
        return Preprocessed(self.fitted(image), cut_away, transparent)

    def _decoded(self, data: bytes) -> Decoded:
        return decode_noting_transparency(data, "grey" if len(self.shape) == 2 else "rgb", self.background)

    def fitted(self, image: Pixels) -> Pixels:
        """Return a decoded image brought to the height and width of `shape`; see `fit`."""
        height, width = self.shape[:2]
        return fit(image, height, width, self.fit, self.background or (0, 0, 0))

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain values, for digests and files."""
        background = {} if self.background is None else {"background": list(self.background)}
        return {"shape": list(self.shape), "fit": self.fit, **background}


@dataclass
class Losses:
    """What preprocessing lost, over many images.

    Attributes
    ----------
    images : int
        Number of images.
    cut : int
        Number of images of which at least a hundredth of the area is cut away.
    cut_away : float
        Sum of the shares of these images' areas that are cut away.
    transparent : int
        Number of images with pixels that are not opaque.
    """

    images: int = 0
    cut: int = 0
    cut_away: float = 0.0
    transparent: int = 0

    def add(self, image: Preprocessed) -> None:
        """Count one image."""
        self.images += 1
        if image.cut_away >= 0.01:
            self.cut += 1
            self.cut_away += image.cut_away
        self.transparent += image.transparent

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the mean share that is cut away of the images that are cut, as plain values."""
        mean = self.cut_away / self.cut if self.cut else 0.0
        return {
            "images": self.images,
            "cut": self.cut,
            "mean_cut_away": round(mean, 4),
            "transparent": self.transparent,
        }


def loss_messages(losses: Mapping[str, Any], preprocessing: Preprocessing, images: str) -> Iterator[str]:
    """Yield a sentence for each thing that preprocessing lost, with the key that avoids it.

    Parameters
    ----------
    losses : mapping
        See `Losses.to_dict`.
    preprocessing : Preprocessing
    images : str
        What the images are, such as ``"images of the folder pets"``.
    """
    if losses.get("cut"):
        yield (
            f'data.fit = "cut" cuts away {losses["mean_cut_away"]:.0%} of the area of {losses["cut"]:,} of '
            f"{losses['images']:,} {images}, on average, to fit {_size(preprocessing.shape)}; if your server does not "
            'cut them, set data.fit = "squash" (changes the aspect ratio) or "pad" (adds bars)'
        )
    if losses.get("transparent") and preprocessing.background is None:
        yield (
            f"{losses['transparent']:,} of {losses['images']:,} {images} have transparent pixels, whose stored colours "
            "are used; set data.background (such as 255 for white) if your server shows them on a background"
        )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]} pixels (height x width)"


def fit(image: Pixels, height: int, width: int, how: Fit = "cut", background: Rgb = (0, 0, 0)) -> Pixels:
    """Resize an image to `height` by `width` pixels.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W) or (H, W, 3)
    height, width : int
        The target size.
    how : {"cut", "squash", "pad"}
        ``"cut"``: the largest central part with the target's aspect ratio is resized. ``"squash"``: the whole image is
        resized, and its aspect ratio changes. ``"pad"``: the whole image is resized with its aspect ratio, and bars of
        the background are added.
    background : tuple of int
        Red, green and blue of the bars, 0 to 255.

    Notes
    -----
    Images are shrunk by averaging over areas, which avoids aliasing, and enlarged by bilinear interpolation.
    """
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    if how == "squash":
        return _resized(image, height, width)
    if how == "pad":
        inner_rows = min(height, max(1, round(rows * width / columns)))
        inner_columns = min(width, max(1, round(columns * height / rows)))
        top, left = (height - inner_rows) // 2, (width - inner_columns) // 2
        padded = np.empty((height, width, *image.shape[2:]), np.uint8)
        padded[...] = _luma(background) if image.ndim == 2 else np.asarray(background, np.uint8)
        padded[top : top + inner_rows, left : left + inner_columns] = _resized(image, inner_rows, inner_columns)
        return padded
    cut_rows, cut_columns = _cut((rows, columns), (height, width))
    top, left = (rows - cut_rows) // 2, (columns - cut_columns) // 2
    return _resized(image[top : top + cut_rows, left : left + cut_columns], height, width)


def share_cut_away(size: tuple[int, int], target: tuple[int, int]) -> float:
    """Return the share of an image's area that ``fit = "cut"`` cuts away, 0 to 1, given heights and widths."""
    cut_rows, cut_columns = _cut(size, target)
    return 1 - cut_rows * cut_columns / (size[0] * size[1])


def _cut(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    (rows, columns), (height, width) = size, target
    return min(rows, columns * height // width or 1), min(columns, rows * width // height or 1)


def _resized(image: Pixels, height: int, width: int) -> Pixels:
    """Shrink by averaging over areas, enlarge by bilinear interpolation; each side on its own."""
    import cv2

    rows, columns = image.shape[:2]
    smaller = (min(rows, height), min(columns, width))
    image = np.ascontiguousarray(image)
    for size, how in ((smaller, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if image.shape[:2] != size:
            image = cv2.resize(image, size[::-1], interpolation=how)
    return image


def _luma(colour: Rgb) -> int:
    weights: npt.NDArray[np.float64] = np.array([0.299, 0.587, 0.114])
    return round(float(weights @ np.asarray(colour, np.float64)))
