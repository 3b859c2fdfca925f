"""Probing: find the least noise that passes the filter, at the cost of a few sessions, and attack with it."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.protocol import Answer, ClientGenerator, Image, Query, Refusal, World

_RAISE = 1.5
"""Factor by which the noise grows when the attack is still refused."""


class Probe(Evasion):
    """Search for the least noise that is not refused, then add that much noise to every submitted copy.

    The search is a bisection on the logarithm of the standard deviation. Each probing session sends one auxiliary
    image `patience` times, with fresh noise. If a query is refused, the next session tries more noise, otherwise less.
    After the last one the attack begins, in a new session; after a refusal it continues in another one, with more
    noise.
    """

    main: ClassVar[str | None] = "sessions"
    closed_loop: ClassVar[bool] = True

    sessions: int = Field(6, ge=1, le=100, description="probing sessions")
    patience: int = Field(30, ge=2, description="queries that must pass in a probing session")
    least: float = Field(0.002, gt=0, le=1, description="lowest standard deviation of the search")
    most: float = Field(0.3, gt=0, le=1, description="highest standard deviation of the search")

    @property
    def entry(self) -> int:
        """All queries of the probing sessions, if none is refused."""
        return self.sessions * self.patience

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        evasion_rng = rng.spawn(1)[0]
        running = attack(world, rng)
        try:
            query = next(running)
            image = world.pool.image(int(evasion_rng.integers(len(world.pool))))
            low, high = math.log(min(self.least, self.most)), math.log(max(self.least, self.most))
            for _ in range(self.sessions):
                middle = (low + high) / 2
                refused = yield from self._refused(image, math.exp(middle), query.reconstruction, evasion_rng)
                low, high = (middle, high) if refused else (low, middle)
            sd, leaves = math.exp(high), True
            while True:
                sent = _noisy(query.image, sd, evasion_rng)
                reply = yield query._replace(
                    image=sent, guess=query.reconstruction, new_session=query.new_session or leaves
                )
                leaves = False
                if isinstance(reply, Refusal):
                    sd = min(1.0, _RAISE * sd)
                else:
                    query = running.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _refused(
        self, image: Image, sd: float, guess: Image, rng: np.random.Generator
    ) -> Generator[Query, Answer | Refusal, bool]:
        """Run one probing session; return whether a query was refused."""
        for number in range(self.patience):
            reply = yield Query(_noisy(image, sd, rng), guess=guess, new_session=number == 0)
            if isinstance(reply, Refusal):
                return True
        return False


def _noisy(image: Image, sd: float, rng: np.random.Generator) -> Image:
    noise = np.float32(sd) * rng.standard_normal(image.shape, np.float32)
    return np.clip(image + noise, np.float32(0), np.float32(1))
