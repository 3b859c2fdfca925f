"""A sound attacker and a sound user, and clients with one fault each."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients import Answer, Attacker, ClientGenerator, Image, Knowledge, Query, Refusal, User, World


class Walk(Attacker):
    """A sound attacker: a random walk from an auxiliary image, which accepts a step if the label is the target's."""

    sends: ClassVar[str] = "a random walk from an auxiliary image"

    step: float = Field(0.1, gt=0, le=1, description="standard deviation of a step, in pixel values")

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        reconstruction = world.pool.image(int(rng.integers(len(world.pool))))
        while True:
            image = self.stepped(reconstruction, rng)
            reply = yield self.query(image, reconstruction, world)
            if isinstance(reply, Refusal):
                return reconstruction
            if self.accepts(reply, world.target):
                reconstruction = image

    def stepped(self, reconstruction: Image, rng: np.random.Generator) -> Image:
        return np.clip(
            reconstruction + np.float32(self.step) * rng.standard_normal(reconstruction.shape, np.float32), 0, 1
        )

    def query(self, image: Image, reconstruction: Image, world: World) -> Query:
        return Query(image, guess=reconstruction)

    def accepts(self, answer: Answer, target: int) -> bool:
        return answer.label == target


class ImageOutOfRange(Walk):
    """Does not clip its images."""

    def stepped(self, reconstruction: Image, rng: np.random.Generator) -> Image:
        return reconstruction + np.float32(self.step) * rng.standard_normal(reconstruction.shape, np.float32)


class DoublePrecision(Walk):
    """Sends images in float64."""

    def query(self, image: Image, reconstruction: Image, world: World) -> Query:
        return Query(image.astype(np.float64), guess=reconstruction)  # type: ignore[arg-type]


class WrongShape(Walk):
    """Sends images with one row too few."""

    def query(self, image: Image, reconstruction: Image, world: World) -> Query:
        return Query(image[1:], guess=reconstruction)


class GlobalRandomState(Walk):
    """Draws from numpy's global generator."""

    def stepped(self, reconstruction: Image, rng: np.random.Generator) -> Image:
        noise = np.random.standard_normal(reconstruction.shape)  # noqa: NPY002
        return np.clip(reconstruction + self.step * noise, 0, 1).astype(np.float32)


class SeedsPython(Walk):
    """Seeds Python's global generator, without using it."""

    def accepts(self, answer: Answer, target: int) -> bool:
        random.seed(0)
        return answer.label == target


class SharedState(Walk):
    """Has a counter that all sessions share."""

    counter: ClassVar[Any] = count()

    def stepped(self, reconstruction: Image, rng: np.random.Generator) -> Image:
        return np.roll(super().stepped(reconstruction, rng), next(self.counter), axis=0)


class ChangesSentImages(Walk):
    """Sends all images in one array, which it overwrites."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        buffer = np.empty(world.shape, np.float32)
        running = super().run(world, rng)
        reply: Answer | Refusal | None = None
        try:
            while True:
                query = next(running) if reply is None else running.send(reply)
                buffer[...] = query.image
                reply = yield query._replace(image=buffer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


class RetainsPools(Walk):
    """Keeps references to the pools of all sessions."""

    pools: ClassVar[list[Any]] = []

    def query(self, image: Image, reconstruction: Image, world: World) -> Query:
        self.pools.append(world.pool)
        return Query(image, guess=reconstruction)


class ContinuesWhenRefused(Walk):
    """Continues after a refusal, without being declared closed-loop."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        running = super().run(world, rng)
        query = next(running)
        while True:
            reply = yield query
            if isinstance(reply, Answer):
                query = running.send(reply)


class DependsOnTheUse(Walk):
    """Sends other images if its reconstruction is not used."""

    def query(self, image: Image, reconstruction: Image, world: World) -> Query:
        return Query(image if world.reconstructs else 1 - image, guess=reconstruction)


class ReadsConfidences(Walk):
    """Declares that it needs only the label, but uses a confidence if there is one."""

    def accepts(self, answer: Answer, target: int) -> bool:
        return answer.label == target if answer.confidence is None else bool(answer.confidence[target] > 1e-9)


class NeedsMoreThanDeclared(Walk):
    """Declares that it needs only the label, but fails without confidences."""

    def accepts(self, answer: Answer, target: int) -> bool:
        assert answer.confidence is not None
        return bool(answer.confidence[target] > 0.5)


class FailsOnWithheldConfidences(Walk):
    """Fails if any confidence is withheld."""

    needs: ClassVar[Knowledge] = Knowledge.CONFIDENCE

    def accepts(self, answer: Answer, target: int) -> bool:
        assert answer.confidence is not None
        assert np.isfinite(answer.confidence).all()
        return answer.label == target


class UndeclaredWhiteBox(Walk):
    """Requests gradients without being declared white-box."""

    def query(self, image: Image, reconstruction: Image, world: World) -> Query:
        return Query(image, guess=reconstruction, gradient_of=world.target)


class WhiteBoxWithoutGradients(Walk):
    """Is declared white-box, but requests no gradients."""

    white_box: ClassVar[bool] = True


class ReturnsNothing(Walk):
    """Returns no reconstruction."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        yield from super().run(world, rng)
        return None


class AcceptsNoTarget(Walk):
    """Attacks class 0 if it has no target, instead of raising an error."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        return super().run(replace(world, target=world.target or 0), rng)


class UndocumentedField(Walk):
    """Has a field without a description."""

    step: float = Field(0.1, gt=0, le=1)


class DefaultNotInJson(Walk):
    """Has a default that JSON cannot represent."""

    limit: float = Field(float("nan"), description="no number")


class DescribedInASentence(Walk):
    """Describes what the server sees in a full sentence."""

    sends: ClassVar[str] = "It walks at random from an auxiliary image."


class StepWithoutEffect(Walk):
    """Has a field without effect."""

    def stepped(self, reconstruction: Image, rng: np.random.Generator) -> Image:
        return np.clip(reconstruction + np.float32(0.1) * rng.standard_normal(reconstruction.shape, np.float32), 0, 1)


class ExpectsTooFewQueries(Walk):
    """Expects 3 queries, but never stops."""

    @property
    def expected_queries(self) -> float | None:
        return 3.0


class Shuffled(User):
    """A sound user: sends images drawn at random from the pool."""

    length: int = Field(50, ge=1, description="images in a session")

    @property
    def expected_queries(self) -> float | None:
        return float(self.length)

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        for index in rng.integers(len(world.pool), size=self.length):
            if isinstance((yield self.query(world.pool.image(int(index)))), Refusal):
                break
        return self.returned(world)

    def query(self, image: Image) -> Query:
        return Query(image)

    def returned(self, world: World) -> Image | None:
        return None


class ReturnsAnImage(Shuffled):
    """Returns one of the images."""

    def returned(self, world: World) -> Image | None:
        return world.pool.image(0)


class SendsGuesses(Shuffled):
    """Sends a reconstruction, as an attacker does."""

    def query(self, image: Image) -> Query:
        return Query(image, guess=image)


class SendsBlack(Shuffled):
    """Sends images that are not from the pool."""

    def query(self, image: Image) -> Query:
        return Query(np.zeros_like(image))


class OpensSessions(Shuffled):
    """Opens a session for every image, without being declared closed-loop."""

    def query(self, image: Image) -> Query:
        return Query(image, new_session=True)


class UsesAccounts(Shuffled):
    """Sends from a second account, without being declared closed-loop."""

    def query(self, image: Image) -> Query:
        return Query(image, account=1)


class ExpectsTooManyQueries(Shuffled):
    """Expects 1000 queries, but sends far fewer."""

    @property
    def expected_queries(self) -> float | None:
        return 1000.0
