"""Views: reductions of images in size and colour before a detector compares them.

This module imports OpenCV and numba only when a view is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import Detector, Verdict
from mifsim.errors import ConfigError, InvalidImage

Colour = Literal["as-is", "grey"]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in the luma of Rec. 601."""


@dataclass(frozen=True)
class View:
    """Reduction of images in size and colour.

    Attributes
    ----------
    size : tuple of int or None
        Height and width, in pixels, to which images are reduced by area averaging; None for the original size.
    colour : {"as-is", "grey"}
        ``"grey"`` converts colour images to their luma (Rec. 601).

    Examples
    --------
    >>> View.parse({"size": 4, "colour": "grey"}).apply(np.ones((8, 8, 3), np.float32)).shape
    (4, 4)
    """

    size: tuple[int, int] | None = None
    colour: Colour = "as-is"

    @classmethod
    def parse(cls, given: object) -> View | None:
        """Create a view from a table such as ``{size = 64, colour = "grey"}``; return None for None.

        Raises
        ------
        ConfigError
            If a key or value is not accepted. The message names key, value and what is accepted.
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
        """Return the view as plain values for TOML."""
        sides: dict[str, Any] = {} if self.size is None else {"size": list(self.size)}
        return {**sides, "colour": self.colour}

    def __str__(self) -> str:
        size = "" if self.size is None else f"{self.size[0]}×{self.size[1]} "
        return f"{size}{'grey' if self.colour == 'grey' else 'colours as they are'}"

    def problem(self, shape: tuple[int, ...]) -> str:
        """Return an error message if the view cannot be applied to images of a shape; otherwise an empty string."""
        if self.size is not None and (shape[0] < self.size[0] or shape[1] < self.size[1]):
            return (
                f"a view of {self.size[0]} x {self.size[1]} needs images at least as large, got {shape[0]} x {shape[1]}"
            )
        return ""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a reduced image, given the shape of the original."""
        sides = shape[:2] if self.size is None else self.size
        return (*sides, *(() if self.colour == "grey" and shape[2:] == (3,) else shape[2:]))

    def apply(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the reduced image.

        Parameters
        ----------
        pixels : ndarray of float32, shape (H, W) or (H, W, C), in [0, 1]

        Returns
        -------
        ndarray of float32, in [0, 1]
            Its shape is that of `shape`.

        Raises
        ------
        InvalidImage
            If the image is smaller than the view.
        """
        if problem := self.problem(pixels.shape):
            raise InvalidImage(problem)
        reduced = pixels
        if self.colour == "grey" and reduced.ndim == 3 and reduced.shape[2] == 3:
            # Channel by channel: the order of summation in a matrix product depends on the library.
            reduced = reduced[..., 0] * _LUMA[0] + reduced[..., 1] * _LUMA[1] + reduced[..., 2] * _LUMA[2]
        if self.size is not None and reduced.shape[:2] != self.size:
            import cv2

            height, width = self.size
            resized: npt.NDArray[np.float32] = cv2.resize(reduced, (width, height), None, 0, 0, cv2.INTER_AREA)
            reduced = resized.reshape(self.size + reduced.shape[2:])  # OpenCV drops a single channel
        return np.clip(reduced, np.float32(0), np.float32(1))  # rounding can make a white image exceed 1


class ViewedDetector:
    """A detector or recorder that applies a view to each image and passes the result to another one.

    Parameters
    ----------
    inner : Detector
        Receives the reduced images.
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
        """Return the verdict for the view of one image; see `Detector.check`."""
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
        """Return the state of the inner detector and the shape of the original images."""
        return {"shape": self._shape or (), "inner": self._inner.state_dict()}

    def durable_counts(self) -> dict[str, Any]:
        """See `DurableDetector`."""
        counts: dict[str, Any] = self._inner.durable_counts()  # type: ignore[attr-defined]
        return counts

    def resume_counts(self, counts: Mapping[str, Any]) -> None:
        """See `DurableDetector`."""
        self._inner.resume_counts(counts)  # type: ignore[attr-defined]

    def savepoint(self) -> Callable[[], None]:
        """See `DurableDetector`."""
        shape, undo_inner = self._shape, self._inner.savepoint()  # type: ignore[attr-defined]

        def undo() -> None:
            undo_inner()
            self._shape = shape

        return undo

    def restored(self, state: Mapping[str, Any]) -> ViewedDetector:
        """Restore the shape from a state; the inner detector is restored already. Return this detector."""
        self._shape = tuple(state["shape"]) or None
        return self

    def row(self) -> Mapping[str, Any]:
        """Return the row of the inner recorder; see `Recorder.row`."""
        row: Mapping[str, Any] = self._inner.row()  # type: ignore[attr-defined]
        return row
