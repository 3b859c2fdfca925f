"""Evasions that alter each submitted copy, while the attack continues from the unaltered image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import ClientGenerator, Image, World


class Altered(Evasion):
    """Alter the image of each query anew, but not the attacker's guess.

    The answer, and a white-box attacker's gradient, are those of the altered image; the attack uses them as if they
    were those of the unaltered one.
    """

    @abstractmethod
    def alter(self, image: Image, rng: np.random.Generator) -> Image:
        """Return an altered copy, float32 of the same shape; values outside [0, 1] are clipped afterwards."""

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        return send_altered(attack, world, rng, self.alter)


def send_altered(
    attack: Start, world: World, rng: np.random.Generator, alter: Callable[[Image, np.random.Generator], Image]
) -> ClientGenerator:
    """Run an attack with the image of each query altered; see `Altered`.

    Parameters
    ----------
    attack : Start
    world : World
    rng : Generator
        The client's.
    alter : callable
        Returns the altered copy of an image; its second argument is the evasion's generator. See `Altered.alter`.
    """
    evasion_rng = rng.spawn(1)[0]
    running = attack(world, rng)
    try:
        query = next(running)
        while True:
            sent = np.clip(alter(query.image, evasion_rng), np.float32(0), np.float32(1))
            query = running.send((yield query._replace(image=sent, guess=query.reconstruction)))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


class Noise(Altered):
    """Gaussian noise on the submitted copy."""

    main: ClassVar[str | None] = "sd"

    sd: float = Field(0.02, gt=0, le=1, description="standard deviation, in pixel values (0 to 1)")

    def alter(self, image: Image, rng: np.random.Generator) -> Image:
        """Add the noise."""
        return image + np.float32(self.sd) * rng.standard_normal(image.shape, np.float32)


class Brightness(Altered):
    """One random shift of all pixel values; it targets the mean-intensity hash."""

    main: ClassVar[str | None] = "most"

    most: float = Field(0.1, gt=0, le=1, description="amounts are uniform from -most to most, in pixel values")

    def alter(self, image: Image, rng: np.random.Generator) -> Image:
        """Shift all pixels."""
        return image + np.float32(rng.uniform(-self.most, self.most))


class Contrast(Altered):
    """A random scaling of the differences from the image's mean; it targets SSIM's contrast term, not the hash."""

    main: ClassVar[str | None] = "most"

    most: float = Field(0.3, gt=0, lt=1, description="factors are uniform from 1 - most to 1 + most")

    def alter(self, image: Image, rng: np.random.Generator) -> Image:
        """Scale around the mean."""
        mean = image.mean(dtype=np.float32)
        altered: Image = mean + np.float32(rng.uniform(1 - self.most, 1 + self.most)) * (image - mean)
        return altered


class Motion(Altered):
    """A small shift and rotation, with edges replicated; it targets SSIM's structure term."""

    main: ClassVar[str | None] = "pixels"

    pixels: float = Field(1.0, ge=0, le=64, description="shifts along each axis are uniform from -pixels to pixels")
    degrees: float = Field(5.0, ge=0, le=180, description="angles are uniform from -degrees to degrees")

    def alter(self, image: Image, rng: np.random.Generator) -> Image:
        """Move the image."""
        import cv2

        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-1, 1) * self.degrees, 1.0)
        matrix[:, 2] += rng.uniform(-1, 1, 2) * self.pixels
        moved: Image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        return moved
