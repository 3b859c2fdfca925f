"""A user who sends images of one class only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.stream import ImageStream, shuffled


class OneClass(ImageStream):
    """Draws one class (all classes in the pool equally likely), then sends distinct images of that class.

    Images of one class resemble each other, as an attacker's do. A session longer than the class goes through
    it again in the same order.
    """

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        return (ImageNeed(queries, one_class=True),)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield the images of one class in random order."""
        return map(world.pool.image, self.places(world, rng))

    def places(self, world: World, rng: np.random.Generator) -> Iterator[int]:
        """See `ImageStream.places`."""
        labels = world.pool.labels
        chosen = rng.choice(np.flatnonzero(np.bincount(labels)))
        return shuffled(np.flatnonzero(labels == chosen), rng)
