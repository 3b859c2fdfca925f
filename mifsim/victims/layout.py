"""The order of the axes in which a model takes images: frameworks differ in where the channels are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mifsim.errors import VictimError

LayoutName = Literal["channels-last", "channels-first", "no-channels", "flat"]
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
Shape = Sequence[int | None]
"""Shape of one image as a model states it; None: any size."""


def find_layout(where: str, takes: Shape, row: tuple[int, int, int], given: LayoutName | None) -> LayoutName:
    """Return the layout of a model whose input has the shape `takes`.

    Parameters
    ----------
    where : str
        Name of the model, for messages.
    takes : sequence of int or None
        Shape of one image, without the batch dimension.
    row : tuple of int
        Shape (H, W, channels) of the data's images.
    given : str or None
        The layout that the study states; None: the only one that fits.

    Raises
    ------
    VictimError
        If the given layout, or any layout, does not fit the shape, or several do.

    Examples
    --------
    >>> find_layout("model.onnx", (3, None, None), (32, 48, 3), None)
    'channels-first'
    >>> find_layout("model.onnx", (784,), (28, 28, 1), None)
    'flat'
    """
    fitting = [name for name in LAYOUTS if _fits(takes, shape_in(name, row))]
    if given is not None and given in fitting:
        return given
    shapes = " or ".join(f"{text(shape)} ({name})" for name in LAYOUTS if (shape := shape_in(name, row)) is not None)
    if given is not None or not fitting:
        state = "" if given is None else f", and victim.layout = {given!r}"
        raise VictimError(f"{where}: takes images of shape {text(takes)}{state}; the data's images have {shapes}")
    if len(fitting) > 1:
        choices = " or ".join(repr(name) for name in fitting)
        raise VictimError(
            f"{where}: takes images of shape {text(takes)}, from which the order of the axes is not clear; set "
            f"victim.layout = {choices}"
        )
    return fitting[0]


def shape_in(layout: LayoutName, row: tuple[int, int, int]) -> tuple[int, ...] | None:
    """Return the shape of an image in a layout; None if the layout cannot hold it: colour needs channels."""
    height, width, channels = row
    if layout == "channels-last":
        return row
    if layout == "channels-first":
        return channels, height, width
    if layout == "no-channels":
        return (height, width) if channels == 1 else None
    return (height * width * channels,)


def arranged(rows: npt.NDArray[Any], layout: LayoutName) -> npt.NDArray[Any]:
    """Return images of shape (n, H, W, channels) in a layout, as a contiguous array.

    Examples
    --------
    >>> arranged(np.zeros((5, 4, 3, 1)), "channels-first").shape, arranged(np.zeros((5, 4, 3, 1)), "flat").shape
    ((5, 1, 4, 3), (5, 12))
    """
    if layout == "channels-first":
        return np.ascontiguousarray(rows.transpose(0, 3, 1, 2))
    shape = shape_in(layout, rows.shape[1:])
    assert shape is not None, f"{layout} cannot hold images of shape {rows.shape[1:]}"
    return np.ascontiguousarray(rows.reshape(len(rows), *shape))


def text(shape: Shape) -> str:
    """Return a shape as text.

    Examples
    --------
    >>> text((None, 28))
    '(any, 28)'
    """
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"


def _fits(takes: Shape, wanted: tuple[int, ...] | None) -> bool:
    return (
        wanted is not None
        and len(takes) == len(wanted)
        and all(side in (None, size) for side, size in zip(takes, wanted, strict=True))
    )
