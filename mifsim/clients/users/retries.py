"""A user who sends the same image again, after a failed connection or an unsatisfactory answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.length import upper
from mifsim.clients.users.stream import ImageStream, shuffled


class Retries(ImageStream):
    """Sends distinct images, and sometimes an identical copy of a recent one.

    Every query after the first is such a retry with the same probability, so one image may be sent several
    times in a row. A retry counts as one of the session's `length` images.
    """

    probability: float = Field(0.05, ge=0, lt=1, description="probability that a query is a retry")
    window: int = Field(
        1, ge=1, description="number of most recent distinct images among which a retry is drawn, each equally likely"
    )

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        others = (queries - 1) * (1 - self.probability)
        return (ImageNeed(upper(1 + others, others * self.probability, queries)),)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield the pool's images in random order, and copies of recent ones between them."""
        return map(world.pool.image, self.places(world, rng))

    def places(self, world: World, rng: np.random.Generator) -> Iterator[int]:
        """See `ImageStream.places`."""
        recent: deque[int] = deque(maxlen=self.window)
        for index in shuffled(np.arange(len(world.pool)), rng):
            recent.append(index)
            yield index
            while rng.random() < self.probability:
                yield recent[rng.integers(len(recent))]
