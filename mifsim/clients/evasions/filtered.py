"""Evasions that sharpen or smooth each submitted copy, against detectors that test single images."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasions.altered import Altered
from mifsim.clients.protocol import Image

SIGMA_HELP = "standard deviation of the Gaussian, in pixels"


def smoothed(image: Image, sigma: float) -> Image:
    """Return an image convolved with a Gaussian that is cut off at about 4 `sigma`; its edges are mirrored.

    Parameters
    ----------
    image : Image
    sigma : float
        Standard deviation in pixels, above 0.
    """
    import cv2

    blurred: Image = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return blurred


class Sharpen(Altered):
    """Evade tests for smooth and for average images: an unsharp mask amplifies fine structure.

    The copy is ``x + strength * (x - smoothed(x))``, clipped to [0, 1]. Averages of images and decoded latents have
    little fine structure. The mask also amplifies the differences between similar queries, and noise.
    """

    main: ClassVar[str | None] = "strength"

    strength: float = Field(1.0, gt=0, le=100, description="factor of the difference between image and smoothed image")
    sigma: float = Field(1.0, gt=0, le=64, description=SIGMA_HELP)

    def alter(self, image: Image, rng: np.random.Generator) -> Image:
        """Apply the unsharp mask."""
        return image + np.float32(self.strength) * (image - smoothed(image, self.sigma))


class Denoise(Altered):
    """Evade tests for noisy images: a Gaussian smooths away the noise with which an attack varies its images.

    A Gaussian is used, and not a median, because it is linear: it keeps the smooth part of each change of the image,
    and so the relation of the answers to that part. The copies are smoother, more average and more similar to one
    another, which other tests detect; little smoothing suffices against noise.
    """

    main: ClassVar[str | None] = "sigma"

    sigma: float = Field(0.5, gt=0, le=64, description=SIGMA_HELP)

    def alter(self, image: Image, rng: np.random.Generator) -> Image:
        """Smooth the image."""
        return smoothed(image, self.sigma)
