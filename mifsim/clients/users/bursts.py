"""A user with a camera: several shots of one subject, then the next subject."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.camera import Shot, drawn_noise, rendered, shots_at_once
from mifsim.clients.users.length import Length, Uniform
from mifsim.clients.users.stream import ImageStream, shuffled


class Bursts(ImageStream):
    """Sends each image of the pool several times, with small differences between shots.

    A shot is the image after camera shake (shift, and rotation about the centre; bilinear, with the border replicated),
    a change of light (x · (1 + gain) + offset) and sensor noise, clipped to [0, 1]. The shots of one subject are
    independent. Each of the five amounts is the standard deviation of a normal distribution; 0 disables it.
    """

    shots: Length = Field(
        Length(Uniform(min=2, max=6)),
        description="shots of one subject: a number, {min, max} (each equally likely) or {mean} (geometric)",
    )
    shift_pixels: float = Field(0.5, ge=0, allow_inf_nan=False, description="motion along each axis, in pixels (sd)")
    rotation_degrees: float = Field(1.0, ge=0, allow_inf_nan=False, description="rotation about the centre (sd)")
    gain: float = Field(0.03, ge=0, allow_inf_nan=False, description="relative change of the light (sd)")
    offset: float = Field(0.01, ge=0, allow_inf_nan=False, description="added light (sd; pixels: 0 to 1)")
    noise: float = Field(0.01, ge=0, allow_inf_nan=False, description="sensor noise of each pixel (sd; pixels: 0 to 1)")

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        return (ImageNeed(self.shots.draws_for(queries)),)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield shots of one subject after the other, the subjects in random order."""
        return rendered(self._shots(world, rng), self.noise)

    def ahead(self, world: World, rng: np.random.Generator, length: int) -> Iterator[Image]:
        """See `ImageStream.ahead`."""
        return rendered(self._shots(world, rng), self.noise, shots_at_once(world.shape), length)

    def _shots(self, world: World, rng: np.random.Generator) -> Iterator[Shot]:
        for index in shuffled(np.arange(len(world.pool)), rng):
            subject = world.pool.image(index)
            for _ in range(self.shots.draw(rng)):
                right, down, turn, brighter, lighter = rng.standard_normal(5).tolist()
                yield Shot(
                    subject,
                    self.shift_pixels * right,
                    self.shift_pixels * down,
                    self.rotation_degrees * turn,
                    zoom=1.0,
                    light=1 + self.gain * brighter,
                    offset=self.offset * lighter,
                    noise=drawn_noise(world.shape, rng),
                )
