"""Clients that misbehave."""

from __future__ import annotations

import numpy as np

from mifsim.clients.protocol import ClientGenerator, Query, User, World
from mifsim.defense import InvalidImage


class Crashing(User):
    """Raises after its second answer."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        for _ in range(2):
            yield Query(world.pool.image(int(rng.integers(len(world.pool)))))
        raise ZeroDivisionError("as it was told to")


class OddImages(User):
    """Sends a good image, then things that are none, then the good one again and again."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        good = world.pool.image(0)
        yield Query(good)
        spoilt = [np.full(world.shape, value, np.float32) for value in (np.nan, np.inf, -0.5, 1.5)]
        for bad in [*spoilt, np.zeros((5, 5), np.float32), np.zeros((0, 0), np.float32), "cat.png", good > 0]:
            try:
                yield Query(bad)  # type: ignore[arg-type]
            except InvalidImage:
                continue
            raise AssertionError(f"{bad!r} was taken for an image")
        for _ in range(5):
            yield Query(good)
        return None
