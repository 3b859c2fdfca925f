"""A sound evasion, and evasions with one fault each."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients import ClientGenerator, Evasion, Image, Query, Refusal, World
from mifsim.clients.evasion import Start


class Dimmed(Evasion):
    """A sound evasion: darkens each image by a random factor."""

    main: ClassVar[str | None] = "factor"

    factor: float = Field(0.5, gt=0, le=1, description="factors are uniform from this to 1")

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        evasion_rng = self.generator(rng)
        running = attack(world, rng)
        try:
            query = next(running)
            while True:
                reply = yield self.altered(query, evasion_rng)
                query = running.send(reply)
        except StopIteration as stop:
            return self.returned(stop.value)

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        return rng.spawn(1)[0]

    def altered(self, query: Query, rng: np.random.Generator) -> Query:
        image = query.image * np.float32(rng.uniform(self.factor, 1))
        return query._replace(image=image, guess=query.reconstruction)

    def returned(self, image: Image | None) -> Image | None:
        return image


class Brightened(Dimmed):
    """Brightens images without clipping them."""

    def altered(self, query: Query, rng: np.random.Generator) -> Query:
        return query._replace(image=query.image + np.float32(rng.uniform(0.5, 1)), guess=query.reconstruction)


class SharesTheGenerator(Dimmed):
    """Draws from the generator of the attack."""

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        return rng


class DropsTheReconstruction(Dimmed):
    """Returns nothing instead of the reconstruction that the attack returns."""

    def returned(self, image: Image | None) -> Image | None:
        return None


class DropsTheGuess(Dimmed):
    """Removes the guess, so that the altered image counts as the current reconstruction."""

    def altered(self, query: Query, rng: np.random.Generator) -> Query:
        return super().altered(query, rng)._replace(guess=None)


class UndeclaredRotation(Dimmed):
    """Continues in another session when refused, without being declared closed-loop."""

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        running = super().run(attack, world, rng)
        try:
            query = next(running)
            while True:
                reply = yield query
                query = query._replace(new_session=True) if isinstance(reply, Refusal) else running.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


class UndeclaredAccounts(Dimmed):
    """Spreads the queries over two accounts, without being declared closed-loop."""

    def altered(self, query: Query, rng: np.random.Generator) -> Query:
        return super().altered(query, rng)._replace(account=int(rng.integers(2)))


class CostsMoreThanDeclared(Dimmed):
    """Declares a cost of one query per query of the attack, but sends every query three times."""

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        running = super().run(attack, world, rng)
        try:
            query = next(running)
            while True:
                for _ in range(3):
                    reply = yield query
                    if isinstance(reply, Refusal):
                        break
                query = running.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


class LeavesTheAttackRunning(Dimmed):
    """Keeps references to all attacks that it has started."""

    attacks: ClassVar[list[ClientGenerator]] = []

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        def retained(world: World, rng: np.random.Generator) -> ClientGenerator:
            self.attacks.append(attack(world, rng))
            return self.attacks[-1]

        return super().run(retained, world, rng)


class MainIsNotAField(Dimmed):
    """Names a main argument that does not exist."""

    main: ClassVar[str | None] = "amount"
