"""A minimal world for tests: a linear softmax model, a strict pool, a server for one client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mifsim.clients import Answer, ClientGenerator, Image, Knowledge, Query, Refusal, World


class StrictPool:
    """Provides what the protocol guarantees and no more: no negative indices, read-only arrays."""

    def __init__(self, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
        self._images = images
        self._images.setflags(write=False)
        self.labels = labels
        self.labels.setflags(write=False)

    @classmethod
    def random(cls, shape: tuple[int, ...], classes: int, each: int, seed: int = 0) -> StrictPool:
        images = np.random.default_rng(seed).random((classes * each, *shape), np.float32)
        return cls(images, np.tile(np.arange(classes), each))

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image:
        assert 0 <= index < len(self), f"index {index} into a pool of {len(self)}"
        return self._images[index]

    def index_of(self, image: Image) -> int:
        """Return the index of an identical image in the pool; -1 if there is none."""
        (hits,) = np.nonzero((self._images == image).reshape(len(self), -1).all(axis=1))
        return int(hits[0]) if len(hits) else -1


class SoftmaxLinear:
    """f(x) = softmax(W x + b), whose gradient is known: df_t/dx = f_t (W_t − sum_k f_k W_k)."""

    def __init__(self, shape: tuple[int, ...], classes: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weights = rng.normal(0, 0.3, (classes, *shape))
        self.bias = rng.normal(0, 1, classes)

    def confidence(self, image: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        logits = np.tensordot(self.weights, image, image.ndim) + self.bias
        powers = np.exp(logits - logits.max())
        return powers / powers.sum()

    def gradient(self, image: npt.NDArray[np.floating], label: int) -> npt.NDArray[np.float64]:
        f = self.confidence(image)
        return f[label] * (self.weights[label] - np.tensordot(f, self.weights, 1))

    def answer(self, query: Query, knowledge: Knowledge) -> Answer:
        """Answer with no more than `knowledge`, in read-only arrays."""
        f = self.confidence(query.image).astype(np.float32)
        label = int(f.argmax())
        confidence: npt.NDArray[np.float32] | None = f
        if knowledge is Knowledge.LABEL:
            confidence = None
        elif knowledge is Knowledge.TOP_K:
            confidence = np.where(f >= np.sort(f)[-2], f, np.float32(np.nan))
        gradient = None
        if query.gradient_of is not None:
            gradient = self.gradient(query.image, query.gradient_of).astype(np.float32)
        for array in (confidence, gradient):
            if array is not None:
                array.setflags(write=False)
        return Answer(label, confidence, gradient)


def small_world(shape: tuple[int, ...] = (28, 28), classes: int = 10, target: int | None = None) -> World:
    return World(shape, classes, StrictPool.random(shape, classes, each=6), target)


@dataclass
class Transcript:
    """The record of one session. `sent` and `reconstruction` are copies made when the query came."""

    queries: list[Query] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    reconstruction: list[bytes | None] = field(default_factory=list)
    ended: bool = False
    returned: Image | None = None


class Runs(Protocol):
    """A client, or a population that starts clients."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator: ...


def converse(
    client: Runs,
    world: World,
    rng: np.random.Generator,
    *,
    queries: int = 40,
    refuse_at: int | None = None,
    knows: Knowledge | None = None,
) -> Transcript:
    """Run a client against the linear model, for at most `queries` queries; number `refuse_at` is refused.

    The answers contain what the client needs, or what it `knows`.
    """
    model = SoftmaxLinear(world.shape, world.classes)
    transcript = Transcript()
    running = client.run(world, rng)
    needs = getattr(client, "client", client).needs if knows is None else knows
    try:
        query = next(running)
        while True:
            transcript.queries.append(query)
            transcript.sent.append(query.image.tobytes())
            transcript.reconstruction.append(None if query.guess is None else query.guess.tobytes())
            number = len(transcript.queries)
            if number == queries:
                running.close()
                return transcript
            refused = number == refuse_at
            query = running.send(Refusal() if refused else model.answer(query, needs))
    except StopIteration as stop:
        transcript.ended = True
        transcript.returned = stop.value
        return transcript
