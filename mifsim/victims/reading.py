"""How a model is read: what it receives for an image, and which class each of its outputs means.

Everything outside this package sees images in [0, 1], and confidences in the order of the data's classes. A `Reading`
converts between this form and the model's own: the engine applies it to images, confidences and gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Float32s = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

PIXEL_SCALE = 255.0
"""Scale of a model that receives whole numbers, if the study sets none: pixels are 0 to 255."""

LARGEST_EXACT = 2**24
"""Largest whole number up to which float32 represents all whole numbers."""


@dataclass(frozen=True)
class Reading:
    """A linear conversion of the pixels, the order of the colour channels, and the order of the outputs.

    Attributes
    ----------
    scale, offset : tuple of float
        The model receives ``image * scale + offset``, for an image in [0, 1]. One value, or one for each channel in the
        order in which the model receives the channels. An empty scale is 1, or 255 for a model of whole numbers.
    reverse : bool
        Whether the model receives the channels in the order blue, green, red.
    order : tuple of int
        The class of the data that each output means. Empty: output k means class k.
    whole : tuple of int or None
        The least and the greatest whole number that the model accepts; pixels are rounded to the nearest whole number
        in this range. None: the model accepts any number.

    Examples
    --------
    >>> image = np.array([[[[0.0, 0.5, 1.0]]]], np.float32)
    >>> Reading(scale=(2.0,), offset=(-1.0,), reverse=True).inputs(image).tolist()
    [[[[1.0, 0.0, -1.0]]]]
    >>> Reading(order=(2, 0, 1)).by_class(np.array([[0.5, 0.25, 0.125]], np.float32)).tolist()
    [[0.25, 0.125, 0.5]]
    """

    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = (0.0,)
    reverse: bool = False
    order: tuple[int, ...] = ()
    whole: tuple[int, int] | None = None

    @property
    def factors(self) -> tuple[float, ...]:
        """The scale, with its default."""
        return self.scale or (PIXEL_SCALE if self.whole else 1.0,)

    @property
    def unchanged(self) -> bool:
        """Whether the model receives the image as it is."""
        return self.factors == (1.0,) and self.offset == (0.0,) and not self.reverse and not self.whole

    @property
    def has_gradient(self) -> bool:
        """Whether the model's input has a derivative with respect to the image; rounded pixels have none."""
        return not self.whole

    def inputs(self, images: Float32s) -> Float32s:
        """Return what the model receives for images of shape (n, H, W, channels), in [0, 1]."""
        if self.unchanged:
            return images
        if self.reverse:
            images = images[..., ::-1]
        rows = images * np.asarray(self.factors, np.float32) + np.asarray(self.offset, np.float32)
        if self.whole:
            rows = np.clip(np.rint(rows), self.whole[0], self.whole[1])
        return np.ascontiguousarray(rows, dtype=np.float32)

    def gradients(self, gradients: Float32s) -> Float32s:
        """Return derivatives with respect to the images, of those with respect to `inputs` (the chain rule)."""
        if self.unchanged:
            return gradients
        scaled = gradients * np.asarray(self.factors, np.float32)
        return np.ascontiguousarray(scaled[..., ::-1] if self.reverse else scaled, dtype=np.float32)

    def by_class(self, outputs: Float32s) -> Float32s:
        """Return the columns of `outputs`, shape (n, classes), in the order of the data's classes."""
        if not self.order:
            return outputs
        return np.ascontiguousarray(outputs[:, np.argsort(self.order)])

    def outputs_of(self, classes: Ints) -> Ints:
        """Return the output that means each of some classes; -1 remains -1."""
        if not self.order:
            return classes
        return np.append(np.argsort(self.order), -1).astype(np.int32)[classes]

    def reordered(self, class_of: Sequence[int] | npt.NDArray[np.int64]) -> Reading:
        """Return the reading in which what was class k means class ``class_of[k]``."""
        order = self.order or tuple(range(len(class_of)))
        return replace(self, order=tuple(int(class_of[label]) for label in order))

    def for_type(self, kind: str) -> Reading:
        """Return the reading of a model whose input has a type such as ``uint8``.

        Raises
        ------
        ValueError
            If the model does not take numbers, or cannot take the pixels.

        Examples
        --------
        >>> Reading().for_type("uint8").whole, Reading().for_type("float16").whole
        ((0, 255), None)
        """
        if kind.startswith(("float", "bfloat")):
            return self
        if not kind.startswith(("int", "uint")):
            raise ValueError(f"its input is {kind} (accepted: numbers, such as float32 or uint8)")
        limits = np.iinfo(kind)
        if limits.max < PIXEL_SCALE and not self.scale:
            raise ValueError(
                f"its input is {kind}, up to {limits.max}, which cannot represent pixels from 0 to 255; say what it "
                "receives, as in victim.input = { scale = 255, offset = -128 }"
            )
        return replace(self, whole=(max(limits.min, -LARGEST_EXACT), min(limits.max, LARGEST_EXACT)))

    def facts(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the reading as the keys of a study's ``[victim]`` section that differ from their defaults."""
        found: dict[str, Any] = {}
        if pixels := self._input():
            found["input"] = pixels
        if self.order and self.order != tuple(range(len(self.order))):
            found["labels"] = [class_names[label] for label in self.order]
        return found

    def _input(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        if self.factors != (PIXEL_SCALE if self.whole else 1.0,):
            found["scale"] = _plain(self.factors)
        if self.offset != (0.0,):
            found["offset"] = _plain(self.offset)
        if self.reverse:
            found["channels"] = "bgr"
        return found


def _plain(values: tuple[float, ...]) -> float | list[float]:
    return values[0] if len(values) == 1 else list(values)
