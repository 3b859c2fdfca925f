"""A user who sends an earlier image again, from another file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.camera import as_jpeg, coarsened
from mifsim.clients.users.length import upper
from mifsim.clients.users.span import Quality, Share, Span
from mifsim.clients.users.stream import ImageStream, shuffled


class ReUploads(ImageStream):
    """Sends distinct images, and sometimes a copy of an earlier one, resized and compressed as JPEG.

    This models pictures that are saved, forwarded and uploaded again: messengers and content systems shrink them and
    compress them as JPEG. The copy is shrunk to `scale`, enlarged to the original size and compressed; it is always
    made from the original. Every query after the first is such a copy with the same probability.
    """

    probability: float = Field(0.2, ge=0, lt=1, description="probability that a query is a re-upload")
    window: int = Field(
        20,
        ge=1,
        le=100_000,
        description="number of most recent distinct images among which a re-upload is drawn, each equally likely",
    )
    scale: Share = Field(
        Span.model_validate({"min": 0.5, "max": 1}),
        description="size to which the copy is shrunk, as a share of the original's: a number, or {min, max}",
    )
    quality: Quality = Field(
        Span.model_validate({"min": 50, "max": 95}),
        description="JPEG quality of the copy, 1 to 100: a number, or {min, max} (each whole number equally likely)",
    )

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        others = (queries - 1) * (1 - self.probability)
        return (ImageNeed(upper(1 + others, others * self.probability, queries)),)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield the pool's images in random order, and copies of earlier ones between them."""
        earlier: deque[Image] = deque(maxlen=self.window)
        for index in shuffled(np.arange(len(world.pool)), rng):
            earlier.append(world.pool.image(index))
            yield earlier[-1]
            while rng.random() < self.probability:
                original = earlier[rng.integers(len(earlier))]
                yield as_jpeg(coarsened(original, self.scale.draw(rng)), self.quality.draw_whole(rng))
