"""Client-side augmentation: a program that sends several versions of each image and combines the answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.camera import as_jpeg, coarsened, resized
from mifsim.clients.users.span import Share, Span
from mifsim.clients.users.stream import ImageStream, shuffled


class Augmentation(ImageStream):
    """Sends an image, its mirror image, crops, JPEG copies and shrunken copies of it; then the next image.

    Test-time augmentation averages the answers over crops and mirror images (Krizhevsky et al. 2012 use ten per
    image); a robustness test sends copies of decreasing JPEG quality and size. Every version is made from the
    original, in the order of the fields; a session may end before an image's last version.
    """

    flip: bool = Field(True, description="send the mirror image (left to right)")
    crops: int = Field(
        4, ge=0, le=1000, description="crops per image, each at a random position and enlarged to full size"
    )
    crop: Share = Field(
        Span.model_validate({"min": 0.75, "max": 0.95}),
        description="side of a crop, as a share of the image's: a number, or {min, max}",
    )
    qualities: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        (90, 70, 50), description="JPEG qualities, one copy each"
    )
    scales: tuple[Annotated[float, Field(ge=0.01, le=1)], ...] = Field(
        (0.75, 0.5), description="sizes, one copy each: shrunk to this share and enlarged again"
    )

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        versions = 1 + self.flip + self.crops + len(self.qualities) + len(self.scales)
        return (ImageNeed(-(-queries // versions)),)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield the versions of one image after the other, the images in random order."""
        for index in shuffled(np.arange(len(world.pool)), rng):
            original = world.pool.image(index)
            yield original
            if self.flip:
                yield np.ascontiguousarray(original[:, ::-1])
            for _ in range(self.crops):
                yield self._cropped(original, rng)
            for quality in self.qualities:
                yield as_jpeg(original, quality)
            for scale in self.scales:
                yield coarsened(original, scale)

    def _cropped(self, image: Image, rng: np.random.Generator) -> Image:
        height, width = image.shape[:2]
        share = self.crop.draw(rng)
        rows, columns = max(1, round(share * height)), max(1, round(share * width))
        top, left = rng.integers((height - rows, width - columns), endpoint=True)
        return resized(image[top : top + rows, left : left + columns], height, width)
