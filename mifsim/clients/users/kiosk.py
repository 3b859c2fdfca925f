"""A fixed camera: one background, one sensor, changing subjects."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mifsim.clients.protocol import Image, ImageNeed, World
from mifsim.clients.users.camera import (
    Shot,
    add_noise,
    as_factors,
    clipped,
    drawn_noise,
    in_blocks,
    moved_each,
    shots_at_once,
)
from mifsim.clients.users.length import Length, Uniform
from mifsim.clients.users.stream import ImageStream, shuffled

EDGE = 0.15
"""Width of the oval's soft edge, as a share of its radius."""


class Kiosk(ImageStream):
    """Sends shots of one subject after the other, in front of the same background and from the same camera.

    The frame shows an evenly painted wall, lit from one side (level and slope are drawn once per session, the level for
    each colour channel). An image of the pool covers an oval in its middle, with a soft edge. The position and size of
    the subject vary a little from shot to shot. The light drifts slowly over the session. The sensor adds a fixed
    pattern, drawn once per session: an offset (DSNU) and a relative sensitivity (PRNU) of each pixel, in the terms of
    the standard EMVA 1288; and noise, drawn for every shot. Shots are clipped to [0, 1].
    """

    shots: Length = Field(
        Length(Uniform(min=1, max=2)),
        description="shots of one subject: a number, {min, max} (each equally likely) or {mean} (geometric)",
    )
    subject: float = Field(0.8, ge=0.1, le=2, description="height and width of the oval, as a share of the frame's")
    shift_pixels: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="subject's offset along each axis, in pixels (sd)"
    )
    zoom: float = Field(0.05, ge=0, le=1, description="relative change of a subject's size (sd; of its logarithm)")
    light: float = Field(0.05, ge=0, allow_inf_nan=False, description="relative drift of the light (sd)")
    memory_shots: float = Field(
        100.0, gt=0, le=1e6, description="number of shots after which the correlation of the light is 1/e"
    )
    pattern: float = Field(
        0.01, ge=0, allow_inf_nan=False, description="fixed offset of each pixel (sd; pixels: 0 to 1)"
    )
    response: float = Field(0.01, ge=0, allow_inf_nan=False, description="relative sensitivity of each pixel (sd)")
    noise: float = Field(0.01, ge=0, allow_inf_nan=False, description="sensor noise of each pixel (sd; pixels: 0 to 1)")

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """See `ImageStream.needs_for`."""
        return (ImageNeed(self.shots.draws_for(queries)),)

    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield shots of one subject after the other, the subjects in random order."""
        return self._rendered(world, rng, 1, None)

    def ahead(self, world: World, rng: np.random.Generator, length: int) -> Iterator[Image]:
        """See `ImageStream.ahead`."""
        return self._rendered(world, rng, shots_at_once(world.shape), length)

    def _rendered(self, world: World, rng: np.random.Generator, at_once: int, length: int | None) -> Iterator[Image]:
        shape = world.shape
        mask = _oval(shape, self.subject)
        wall = _wall(shape, rng) * (1 - mask)
        pattern = np.float32(self.pattern) * rng.standard_normal(shape, np.float32)
        response = 1 + np.float32(self.response) * rng.standard_normal(shape, np.float32)
        mask, wall = mask * response, wall * response  # light and sensitivity scale both
        for shots in in_blocks(self._shots(world, rng), at_once, length):
            seen = moved_each(shots)
            seen *= mask
            seen += wall
            seen *= as_factors([shot.light for shot in shots], seen)
            seen += pattern
            for shot, image in zip(shots, seen, strict=True):
                add_noise(image, shot.noise, self.noise)
            yield from clipped(seen)

    def _shots(self, world: World, rng: np.random.Generator) -> Iterator[Shot]:
        kept = math.exp(-1 / self.memory_shots)
        fresh = math.sqrt(1 - kept**2)
        brighter = rng.standard_normal()
        for index in shuffled(np.arange(len(world.pool)), rng):
            subject = world.pool.image(index)
            for _ in range(self.shots.draw(rng)):
                right, down, larger, drift = rng.standard_normal(4).tolist()
                brighter = kept * brighter + fresh * drift
                yield Shot(
                    subject,
                    self.shift_pixels * right,
                    self.shift_pixels * down,
                    degrees=0.0,
                    zoom=math.exp(self.zoom * larger),
                    light=1 + self.light * brighter,
                    noise=drawn_noise(world.shape, rng),
                )


def _oval(shape: tuple[int, ...], share: float) -> npt.NDArray[np.float32]:
    """Return the subject's weight in each pixel: 1 inside, 0 outside, linear over the edge; (H, W) or (H, W, 1)."""
    rows, columns = (np.abs(np.linspace(-1, 1, side, dtype=np.float32)) for side in shape[:2])
    radius = np.hypot(rows[:, None], columns[None, :]) / np.float32(share)
    mask = np.clip((1 + EDGE / 2 - radius) / EDGE, 0, 1).astype(np.float32)
    return mask if len(shape) == 2 else mask[..., None]


def _wall(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return an even surface under light that decreases linearly, by up to 40% from one side to the other."""
    level = rng.uniform(0.2, 0.8, shape[2:])
    down, right = rng.uniform(-0.2, 0.2, 2)
    rows, columns = (np.linspace(-1, 1, side) for side in shape[:2])
    light = 1 + down * rows[:, None] + right * columns[None, :]
    wall: npt.NDArray[np.float64] = light * level if len(shape) == 2 else light[..., None] * level
    return wall.astype(np.float32)
