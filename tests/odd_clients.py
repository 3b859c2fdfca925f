"""Clients that fail or send invalid images, for tests."""

from __future__ import annotations

import numpy as np

from mifsim.clients.protocol import ClientGenerator, Query, User, World
from mifsim.defense import InvalidImage


class Crashing(User):
    """Raises an exception after its second answer."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        for _ in range(2):
            yield Query(world.pool.image(int(rng.integers(len(world.pool)))))
        raise ZeroDivisionError("as it was told to")


class OddImages(User):
    """Sends a valid image, then eight invalid ones, then the valid one five times."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        valid = world.pool.image(0)
        yield Query(valid)
        invalid_pixels = [np.full(world.shape, value, np.float32) for value in (np.nan, np.inf, -0.5, 1.5)]
        for invalid in [
            *invalid_pixels,
            np.zeros((5, 5), np.float32),
            np.zeros((0, 0), np.float32),
            "cat.png",
            valid > 0,
        ]:
            try:
                yield Query(invalid)  # type: ignore[arg-type]
            except InvalidImage:
                continue
            raise AssertionError(f"{invalid!r} was taken for an image")
        for _ in range(5):
            yield Query(valid)
        return None
