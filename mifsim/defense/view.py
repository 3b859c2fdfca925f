"""What of an image a detector compares: the whole of it, or a reduced view.

This module loads OpenCV and numba only when a view is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import Detector, Verdict
from mifsim.errors import ConfigError, InvalidImage

Colour = Literal["as-is", "grey"]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Rec. 601."""


@dataclass(frozen=True)
class View:
    """A reduction of every image, before anything is compared.

    Attributes
    ----------
    size : tuple of int or None
        Height and width that images are reduced to, by area averaging; None: as they are.
    colour : {"as-is", "grey"}
        ``"grey"``: the luma (Rec. 601) of colour images.

    Examples
    --------
    >>> View.parse({"size": 4, "colour": "grey"}).apply(np.ones((8, 8, 3), np.float32)).shape
    (4, 4)
    """

    size: tuple[int, int] | None = None
    colour: Colour = "as-is"

    @classmethod
    def parse(cls, given: object) -> View | None:
        """Read a table such as ``{size = 64, colour = "grey"}``; None stays None.

        Raises
        ------
        ConfigError
        """
        if given is None or isinstance(given, View):
            return given
        if not isinstance(given, Mapping):
            raise ConfigError(f'view = {given!r}: must be a table such as {{size = 64, colour = "grey"}}')
        if unknown := set(given) - {"size", "colour"}:
            raise ConfigError(f"view: unknown key {min(map(str, unknown))!r} (accepted: size, colour)")
        size, colour = given.get("size"), given.get("colour", "as-is")
        if colour not in ("as-is", "grey"):
            raise ConfigError(f"view.colour = {colour!r}: must be one of as-is, grey")
        sides: Any = [size, size] if isinstance(size, int) else list(size) if isinstance(size, (list, tuple)) else size
        if sides is None:
            if colour == "as-is":
                return None
            return cls(None, colour)
        whole = isinstance(sides, list) and len(sides) == 2
        if not whole or not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides):
            raise ConfigError(f"view.size = {size!r}: must be a whole number of at least 1, or [height, width]")
        return cls((int(sides[0]), int(sides[1])), colour)

    def to_dict(self) -> dict[str, Any]:
        """Return the view as a TOML file has it."""
        sides: dict[str, Any] = {} if self.size is None else {"size": list(self.size)}
        return {**sides, "colour": self.colour}

    def __str__(self) -> str:
        size = "" if self.size is None else f"{self.size[0]}×{self.size[1]} "
        return f"{size}{'grey' if self.colour == 'grey' else 'colours as they are'}"

    def problem(self, shape: tuple[int, ...]) -> str:
        """Return why images of a shape have no such view; an empty string where they have."""
        if self.size is not None and (shape[0] < self.size[0] or shape[1] < self.size[1]):
            return (
                f"a view of {self.size[0]} x {self.size[1]} needs images at least as large, got {shape[0]} x {shape[1]}"
            )
        return ""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the view of images of a shape."""
        sides = shape[:2] if self.size is None else self.size
        return (*sides, *(() if self.colour == "grey" and shape[2:] == (3,) else shape[2:]))

    def apply(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the view of an admitted image.

        Parameters
        ----------
        pixels : ndarray of float32, shape (H, W) or (H, W, C), in [0, 1]

        Raises
        ------
        InvalidImage
            The image is smaller than the view.
        """
        if problem := self.problem(pixels.shape):
            raise InvalidImage(problem)
        seen = pixels
        if self.colour == "grey" and seen.ndim == 3 and seen.shape[2] == 3:
            # Added channel by channel: a matrix product's order of summation is the library's own business.
            seen = seen[..., 0] * _LUMA[0] + seen[..., 1] * _LUMA[1] + seen[..., 2] * _LUMA[2]
        if self.size is not None and seen.shape[:2] != self.size:
            import cv2

            height, width = self.size
            reduced: npt.NDArray[np.float32] = cv2.resize(seen, (width, height), None, 0, 0, cv2.INTER_AREA)
            seen = reduced.reshape(self.size + seen.shape[2:])  # OpenCV drops a single channel
        return np.clip(seen, np.float32(0), np.float32(1))  # rounding must not push a white image above 1


class ViewedDetector:
    """A detector that is shown a view of every image.

    Parameters
    ----------
    inner : Detector
    view : View
    """

    def __init__(self, inner: Detector, view: View) -> None:
        from mifsim.defense.images import admit

        self._inner, self._view, self._admit = inner, view, admit
        self._shape: tuple[int, ...] | None = None

    @property
    def count(self) -> float:
        """See `Detector`."""
        return self._inner.count

    @property
    def limit(self) -> float:
        """See `Detector`."""
        return self._inner.limit

    @property
    def blocked(self) -> bool:
        """See `Detector`."""
        return self._inner.blocked

    def check(self, image: object) -> Verdict:
        """Judge the view of one image; see `Detector.check`."""
        if self._inner.blocked:
            return Verdict.UNSAFE
        pixels = self._admit(image, self._shape)
        verdict = self._inner.check(self._view.apply(pixels))
        self._shape = pixels.shape
        return verdict

    def observe(self, answer: Any) -> None:
        """See `Detector`."""
        self._inner.observe(answer)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner state and the shape of the images."""
        return {"shape": self._shape or (), "inner": self._inner.state_dict()}

    def restored(self, state: Mapping[str, Any]) -> ViewedDetector:
        """Take the shape from a state whose inner part has been restored; return itself."""
        self._shape = tuple(state["shape"]) or None
        return self

    def row(self) -> Mapping[str, Any]:
        """Return what a recorder has to say of the last image."""
        row: Mapping[str, Any] = self._inner.row()  # type: ignore[attr-defined]
        return row
