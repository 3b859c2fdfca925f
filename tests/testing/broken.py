"""A sound attacker, user, evasion and data set, and others with one thing wrong with each."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients import Answer, Attacker, ClientGenerator, Evasion, Image, Knowledge, Query, Refusal, User, World
from mifsim.clients.evasion import Start
from mifsim.data import ArrayPool, DataSet
from mifsim.data.base import assemble, split_by_class

CHANGES: dict[str, Mapping[str, Any]] = {
    "Walk": {"step": 0.2},
    "StepWithoutEffect": {"step": 0.2},
    "Shuffled": {"length": 3},
    "Dimmed": {"factor": 0.2},
}


class Walk(Attacker):
    """Walks at random from an auxiliary image; a step that is of the class is kept."""

    sends: ClassVar[str] = "a random walk from an auxiliary image"

    step: float = Field(0.1, gt=0, le=1, description="standard deviation of a step, in pixel values")

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        held = world.pool.image(int(rng.integers(len(world.pool))))
        while True:
            image = self.stepped(held, rng)
            reply = yield self.query(image, held, world)
            if isinstance(reply, Refusal):
                return held
            if self.keeps(reply, world.target):
                held = image

    def stepped(self, held: Image, rng: np.random.Generator) -> Image:
        return np.clip(held + np.float32(self.step) * rng.standard_normal(held.shape, np.float32), 0, 1)

    def query(self, image: Image, held: Image, world: World) -> Query:
        return Query(image, guess=held)

    def keeps(self, answer: Answer, target: int) -> bool:
        return answer.label == target


class ImageOutOfRange(Walk):
    """Does not clip."""

    def stepped(self, held: Image, rng: np.random.Generator) -> Image:
        return held + np.float32(self.step) * rng.standard_normal(held.shape, np.float32)


class DoublePrecision(Walk):
    """Sends float64."""

    def query(self, image: Image, held: Image, world: World) -> Query:
        return Query(image.astype(np.float64), guess=held)  # type: ignore[arg-type]


class WrongShape(Walk):
    """Sends an image with a row too few."""

    def query(self, image: Image, held: Image, world: World) -> Query:
        return Query(image[1:], guess=held)


class GlobalRandomState(Walk):
    """Draws from numpy's global generator."""

    def stepped(self, held: Image, rng: np.random.Generator) -> Image:
        noise = np.random.standard_normal(held.shape)  # noqa: NPY002
        return np.clip(held + self.step * noise, 0, 1).astype(np.float32)


class SeedsPython(Walk):
    """Sets the state of Python's generator, to no effect on itself."""

    def keeps(self, answer: Answer, target: int) -> bool:
        random.seed(0)
        return answer.label == target


class SharedState(Walk):
    """Counts its queries over all sessions."""

    counter: ClassVar[Any] = count()

    def stepped(self, held: Image, rng: np.random.Generator) -> Image:
        return np.roll(super().stepped(held, rng), next(self.counter), axis=0)


class ChangesWhatItSent(Walk):
    """Sends its image in one array, which it writes to again."""

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


class HoldsOn(Walk):
    """Keeps every pool that it was given."""

    pools: ClassVar[list[Any]] = []

    def query(self, image: Image, held: Image, world: World) -> Query:
        self.pools.append(world.pool)
        return Query(image, guess=held)


class GoesOnWhenRefused(Walk):
    """Takes no notice of a refusal, and is not marked as closed-loop."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        running = super().run(world, rng)
        query = next(running)
        while True:
            reply = yield query
            if isinstance(reply, Answer):
                query = running.send(reply)


class ReadsConfidences(Walk):
    """Says that it needs the label, and makes use of the confidence where there is one."""

    def keeps(self, answer: Answer, target: int) -> bool:
        return answer.label == target if answer.confidence is None else bool(answer.confidence[target] > 1e-9)


class NeedsMoreThanItSays(Walk):
    """Says that it needs the label, and fails without a confidence."""

    def keeps(self, answer: Answer, target: int) -> bool:
        assert answer.confidence is not None
        return bool(answer.confidence[target] > 0.5)


class FailsWhereAConfidenceIsWithheld(Walk):
    """Works with all confidences alone."""

    needs: ClassVar[Knowledge] = Knowledge.CONFIDENCE

    def keeps(self, answer: Answer, target: int) -> bool:
        assert answer.confidence is not None
        assert np.isfinite(answer.confidence).all()
        return answer.label == target


class UnmarkedWhiteBox(Walk):
    """Asks for gradients without being marked."""

    def query(self, image: Image, held: Image, world: World) -> Query:
        return Query(image, guess=held, gradient_of=world.target)


class MarkedWhiteBox(Walk):
    """Is marked and does not ask for gradients."""

    white_box: ClassVar[bool] = True


class ReturnsNothing(Walk):
    """Keeps its reconstruction to itself."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        yield from super().run(world, rng)
        return None


class NoTargetNoError(Walk):
    """Attacks nothing where it has no target."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        return super().run(replace(world, target=world.target or 0), rng)


class UndocumentedField(Walk):
    """Has a field without a description."""

    step: float = Field(0.1, gt=0, le=1)


class LostInJson(Walk):
    """Has a default that JSON cannot hold."""

    limit: float = Field(float("nan"), description="no number")


class DescribedAtLength(Walk):
    """Says what the server sees in a whole sentence."""

    sends: ClassVar[str] = "It walks at random from an auxiliary image."


class StepWithoutEffect(Walk):
    """Has a field that does nothing."""

    def stepped(self, held: Image, rng: np.random.Generator) -> Image:
        return np.clip(held + np.float32(0.1) * rng.standard_normal(held.shape, np.float32), 0, 1)


class ExpectsTooFewQueries(Walk):
    """Goes on for ever."""

    @property
    def expected_queries(self) -> float | None:
        return 3.0


class Shuffled(User):
    """Sends the pool's images in random order."""

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


class Guesses(Shuffled):
    """Holds a reconstruction, as an attacker does."""

    def query(self, image: Image) -> Query:
        return Query(image, guess=image)


class SendsBlack(Shuffled):
    """Sends images that are not the pool's."""

    def query(self, image: Image) -> Query:
        return Query(np.zeros_like(image))


class OpensSessions(Shuffled):
    """Opens a session for every image, and is not marked as closed-loop."""

    def query(self, image: Image) -> Query:
        return Query(image, new_session=True)


class UsesAccounts(Shuffled):
    """Sends from another account, and is not marked as closed-loop."""

    def query(self, image: Image) -> Query:
        return Query(image, account=1)


class ExpectsTooManyQueries(Shuffled):
    """Leaves long before it says."""

    @property
    def expected_queries(self) -> float | None:
        return 1000.0


class Dimmed(Evasion):
    """Each image darker by a random amount."""

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
    """Does not clip."""

    def altered(self, query: Query, rng: np.random.Generator) -> Query:
        return query._replace(image=query.image + np.float32(rng.uniform(0.5, 1)), guess=query.reconstruction)


class SharesTheGenerator(Dimmed):
    """Draws from the attack's generator."""

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        return rng


class KeepsTheReconstruction(Dimmed):
    """Does not return what the attack returns."""

    def returned(self, image: Image | None) -> Image | None:
        return None


class HidesTheGuess(Dimmed):
    """Passes off the altered image for what the attacker holds."""

    def altered(self, query: Query, rng: np.random.Generator) -> Query:
        return super().altered(query, rng)._replace(guess=None)


class UnmarkedRotation(Dimmed):
    """Goes on in another session when refused, and is not marked as closed-loop."""

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        running = super().run(attack, world, rng)
        try:
            query = next(running)
            while True:
                reply = yield query
                query = query._replace(new_session=True) if isinstance(reply, Refusal) else running.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


class UnmarkedAccounts(Dimmed):
    """Spreads the queries over two accounts, and is not marked as closed-loop."""

    def altered(self, query: Query, rng: np.random.Generator) -> Query:
        return super().altered(query, rng)._replace(account=int(rng.integers(2)))


class CostsMoreThanItSays(Dimmed):
    """Sends every query three times."""

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
    """Keeps every attack that it started."""

    attacks: ClassVar[list[ClientGenerator]] = []

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        def kept(world: World, rng: np.random.Generator) -> ClientGenerator:
            self.attacks.append(attack(world, rng))
            return self.attacks[-1]

        return super().run(kept, world, rng)


class MainIsNoField(Dimmed):
    """A bare value in a study would set what is not there."""

    main: ClassVar[str | None] = "amount"


def sound_data(
    pool_class: type[ArrayPool] = ArrayPool,
    change: Callable[[dict[Any, Any]], object] = lambda subsets: None,
    content: str = "noise",
    shape: tuple[int, ...] = (9, 8),
) -> DataSet:
    """Two classes of 20 images of noise."""
    labels = np.repeat([0, 1], 20)
    pixels = np.random.default_rng(0).integers(0, 256, (40, *shape), np.uint8)
    subsets = split_by_class(labels, {"private": 0.5, "auxiliary": 0.1, "users": 0.3, "evaluator": 0.1}, 0)
    change(subsets)
    return assemble(
        name="noise",
        shape=shape,
        class_names=("even", "odd"),
        pool=pool_class(pixels, labels),
        subsets=subsets,
        content=content,
        note="Uniform noise.",
    )


class Bytes(ArrayPool):
    def image(self, index: int) -> Image:
        return self.pixels[index].astype(np.float32)

    def images(self, indices: Any) -> Image:
        return self.pixels[np.asarray(indices, np.int64)].astype(np.float32)


class OtherOrder(ArrayPool):
    def images(self, indices: Any) -> Image:
        return super().images(np.sort(np.asarray(indices, np.int64)))


class Grainy(ArrayPool):
    def images(self, indices: Any) -> Image:
        images = super().images(indices)
        return np.clip(images + np.random.default_rng().uniform(0, 0.1, images.shape).astype(np.float32), 0, 1)

    def image(self, index: int) -> Image:
        image: Image = self.images([index])[0]
        return image


class Writeable(ArrayPool):
    def image(self, index: int) -> Image:
        floats = self._floats
        assert floats is not None
        floats.setflags(write=True)
        image: Image = floats[index]
        return image


def pixel_values_up_to_255() -> DataSet:
    return sound_data(Bytes)


def several_in_another_order() -> DataSet:
    return sound_data(OtherOrder)


def images_that_can_be_written_to() -> DataSet:
    return sound_data(Writeable)


def another_image_each_time() -> DataSet:
    return sound_data(Grainy)


def one_channel() -> DataSet:
    return sound_data(shape=(9, 8, 1))


def no_note() -> DataSet:
    return replace(sound_data(), note="")


def subsets_overlap() -> DataSet:
    return sound_data(change=lambda subsets: subsets.update(users=np.append(subsets["users"], subsets["private"][0])))


def a_subset_without_a_class() -> DataSet:
    return sound_data(change=lambda subsets: subsets.update(users=subsets["users"][subsets["users"] < 20]))


def a_subset_too_few() -> DataSet:
    return sound_data(change=lambda subsets: subsets.pop("evaluator"))


def another_shape() -> DataSet:
    return replace(sound_data(), shape=(8, 9))


_loads = count()


def another_fingerprint_each_time() -> DataSet:
    return sound_data(content=str(next(_loads)))
