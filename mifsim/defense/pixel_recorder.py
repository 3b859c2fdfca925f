"""Base class of recorders that compute their columns from valid images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import Verdict
from mifsim.defense.recorder import NonBlocking


class PixelRecorder(NonBlocking, ABC):
    """A recorder that passes each valid image to `measure`, and records what it returns.

    Attributes
    ----------
    last_row : dict
        Values of the last valid image; empty before the first one.
    """

    def __init__(self) -> None:
        from mifsim.defense.images import admit  # loads numba, which the import of this module must not

        self._admit: Callable[[object, tuple[int, ...] | None], npt.NDArray[np.float32]] = admit
        self._shape: tuple[int, ...] | None = None
        self.last_row: dict[str, Any] = {}

    @abstractmethod
    def measure(self, pixels: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Return the row of a valid image, and update the recorder's memory.

        Parameters
        ----------
        pixels : ndarray of float32, shape (H, W) or (H, W, C), in [0, 1]
        """

    def check(self, image: object) -> Verdict:
        """Measure one image and return SAFE.

        Raises
        ------
        InvalidImage
            If the image is not valid. The last row does not change.
        """
        pixels = self._admit(image, self._shape)
        self.last_row = self.measure(pixels)
        self._shape = pixels.shape
        return Verdict.SAFE

    def row(self) -> Mapping[str, Any]:
        """Return the row of the last valid image."""
        return self.last_row
