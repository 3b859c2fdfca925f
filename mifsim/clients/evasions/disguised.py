"""Evasions that add a part of the nearest auxiliary image to each submitted copy, so that it looks natural."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.evasions.altered import send_altered
from mifsim.clients.evasions.filtered import SIGMA_HELP, smoothed
from mifsim.clients.evasions.nearest import NearestImages
from mifsim.clients.protocol import ClientGenerator, Image, World


class Morph(Evasion):
    """Evade tests of whether an image is natural: mix each image with the nearest auxiliary image.

    The copy is ``(1 - share) * x + share * nearest``, where the nearest image is that of least Euclidean distance
    between pixels. The answers are those of the mixture. It does not hide similar queries: those with the same nearest
    image become more similar. Auxiliary images themselves stay as they are.
    """

    main: ClassVar[str | None] = "share"

    share: float = Field(0.3, gt=0, lt=1, description="share of the auxiliary image in the mixture")

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        search = NearestImages.of(world.pool, world.shape)
        share = np.float32(self.share)

        def mixed(image: Image, rng: np.random.Generator) -> Image:
            return (1 - share) * image + share * search.nearest(image)

        return (yield from send_altered(attack, world, rng, mixed))


class Texture(Evasion):
    """Evade tests for smooth images: add the fine structure of the nearest auxiliary image to each image.

    The copy is ``x + strength * (nearest - smoothed(nearest))``, clipped to [0, 1]; see `Morph` for the nearest image.
    Averages of images and decoded latents lack the fine structure of natural images. `Sharpen` can only amplify what
    they have.
    """

    main: ClassVar[str | None] = "strength"

    strength: float = Field(1.0, gt=0, le=100, description="factor of the auxiliary image's fine structure")
    sigma: float = Field(1.0, gt=0, le=64, description=SIGMA_HELP)

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        search = NearestImages.of(world.pool, world.shape)
        strength = np.float32(self.strength)

        def textured(image: Image, rng: np.random.Generator) -> Image:
            nearest = search.nearest(image)
            return image + strength * (nearest - smoothed(nearest, self.sigma))

        return (yield from send_altered(attack, world, rng, textured))
