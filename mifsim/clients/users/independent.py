"""The usual honest user in the literature, and the easiest one for a detector: every image is different."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.stream import ImageStream, shuffled


class Independent(ImageStream):
    """Sends distinct images, drawn uniformly from the pool without replacement.

    A session longer than the pool goes through it again in the same order.
    """

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        return (ImageNeed(queries),)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield the pool's images in random order."""
        return map(world.pool.image, self.places(world, rng))

    def places(self, world: World, rng: np.random.Generator) -> Iterator[int]:
        """See `ImageStream.places`."""
        return shuffled(np.arange(len(world.pool)), rng)
