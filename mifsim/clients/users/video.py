"""A user whose program sends the frames of a video."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.camera import Shot, drawn_noise, rendered, shots_at_once
from mifsim.clients.users.length import Geometric, Length
from mifsim.clients.users.stream import ImageStream, shuffled


class Video(ImageStream):
    """Sends frames of one subject that moves slowly under slowly changing light, and then the next scene.

    Position, rotation, size and light each follow a stationary autoregressive process of first order (a sampled
    Ornstein-Uhlenbeck process) around the original image: they have the given standard deviations in the long run,
    but change little from one frame to the next. The correlation of the positions in two frames that are k frames
    apart is exp(−k / memory_frames). The sensor noise is drawn for every frame. Each scene shows another image of the
    pool.
    """

    scene: Length = Field(
        Length(Geometric(mean=30)),
        description="frames of a scene: a number, {min, max} (each equally likely) or {mean} (geometric)",
    )
    memory_frames: float = Field(
        10.0, gt=0, le=1e6, description="number of frames after which the correlation of motion and light is 1/e"
    )
    shift_pixels: float = Field(1.0, ge=0, allow_inf_nan=False, description="motion along each axis, in pixels (sd)")
    rotation_degrees: float = Field(3.0, ge=0, allow_inf_nan=False, description="rotation about the centre (sd)")
    zoom: float = Field(0.03, ge=0, le=1, description="relative change of size (sd; of its logarithm)")
    gain: float = Field(0.05, ge=0, allow_inf_nan=False, description="relative change of the light (sd)")
    noise: float = Field(0.01, ge=0, allow_inf_nan=False, description="sensor noise of each pixel (sd; pixels: 0 to 1)")

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        return (ImageNeed(self.scene.draws_for(queries)),)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield the frames of one scene after the other, their subjects in random order."""
        return rendered(self._shots(world, rng), self.noise)

    def ahead(self, world: World, rng: np.random.Generator, length: int) -> Iterator[Image]:
        """See `ImageStream.ahead`."""
        return rendered(self._shots(world, rng), self.noise, shots_at_once(world.shape), length)

    def _shots(self, world: World, rng: np.random.Generator) -> Iterator[Shot]:
        kept = math.exp(-1 / self.memory_frames)
        fresh = math.sqrt(1 - kept**2)  # keeps the variance at 1
        for index in shuffled(np.arange(len(world.pool)), rng):
            subject = world.pool.image(index)
            state = rng.standard_normal(5)
            for _ in range(self.scene.draw(rng)):
                right, down, turn, larger, brighter = state.tolist()
                yield Shot(
                    subject,
                    self.shift_pixels * right,
                    self.shift_pixels * down,
                    self.rotation_degrees * turn,
                    math.exp(self.zoom * larger),
                    light=1 + self.gain * brighter,
                    noise=drawn_noise(world.shape, rng),
                )
                state = kept * state + fresh * rng.standard_normal(5)
