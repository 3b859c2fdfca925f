"""A small world to test clients in: random images, a linear softmax model, and a server of one session."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mifsim.clients import Answer, ClientGenerator, Image, Knowledge, Query, Refusal, World


class StrictPool:
    """Gives what the protocol promises and no more: no negative index, nothing that can be written to.

    Parameters
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
    labels : ndarray of int64, shape (n,)
    """

    def __init__(self, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
        self._images = images
        self._images.setflags(write=False)
        self.labels = labels
        self.labels.setflags(write=False)

    @classmethod
    def random(cls, shape: tuple[int, ...], classes: int, each: int, seed: int = 0) -> StrictPool:
        """Return a pool of uniform noise, with `each` images of every class."""
        images = np.random.default_rng(seed).random((classes * each, *shape), np.float32)
        return cls(images, np.tile(np.arange(classes), each))

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image:
        """Return one image; an index out of range is an error, and so is a negative one."""
        assert 0 <= index < len(self), f"index {index} into a pool of {len(self)}"
        image: Image = self._images[index]
        return image

    def index_of(self, image: Image) -> int:
        """Return which image of the pool this is, pixel for pixel; -1 where it is none of them."""
        (hits,) = np.nonzero((self._images == image).reshape(len(self), -1).all(axis=1))
        return int(hits[0]) if len(hits) else -1


class SoftmaxLinear:
    """f(x) = softmax(W x + b), whose gradient is known: df_t/dx = f_t (W_t − sum_k f_k W_k)."""

    def __init__(self, shape: tuple[int, ...], classes: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weights = rng.normal(0, 0.3, (classes, *shape))
        self.bias = rng.normal(0, 1, classes)

    def confidence(self, image: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the confidences of an image, shape (classes,)."""
        logits = np.tensordot(self.weights, image, image.ndim) + self.bias
        powers = np.exp(logits - logits.max())
        confidence: npt.NDArray[np.float64] = powers / powers.sum()
        return confidence

    def gradient(self, image: npt.NDArray[np.floating], label: int) -> npt.NDArray[np.float64]:
        """Return the gradient of one class's confidence, of the image's shape."""
        f = self.confidence(image)
        gradient: npt.NDArray[np.float64] = f[label] * (self.weights[label] - np.tensordot(f, self.weights, 1))
        return gradient

    def answer(self, query: Query, knowledge: Knowledge) -> Answer:
        """Answer with no more than `knowledge`; nothing in the answer can be written to."""
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


def small_world(
    shape: tuple[int, ...] = (28, 28), classes: int = 10, target: int | None = None, seed: int = 0
) -> World:
    """Return a world of six random images a class."""
    return World(shape, classes, StrictPool.random(shape, classes, each=6, seed=seed), target)


@dataclass
class Transcript:
    """One session as it went.

    Attributes
    ----------
    queries : list of Query
    sent, reconstruction : list of bytes
        Copies of the images, and of the guesses (None where there was none), made when the queries came.
    ended : bool
        Whether the client returned; it did not where the number of queries was limited.
    returned : Image or None
        What it returned.
    """

    queries: list[Query] = field(default_factory=list, repr=False)
    sent: list[bytes] = field(default_factory=list, repr=False)
    reconstruction: list[bytes | None] = field(default_factory=list, repr=False)
    ended: bool = False
    returned: Image | None = field(default=None, repr=False)

    @property
    def digests(self) -> list[str]:
        """A line for each query, and one for the end: equal where the client did the same, bit by bit."""
        lines = [
            f"{_digest(sent)} {_digest(held)} {query.gradient_of} {query.new_session}"
            for query, sent, held in zip(self.queries, self.sent, self.reconstruction, strict=True)
        ]
        returned = None if self.returned is None else self.returned.tobytes()
        return [*lines, f"returned {_digest(returned)}" if self.ended else "stopped"]


def _digest(content: bytes | None) -> str:
    return "none" if content is None else hashlib.blake2b(content, digest_size=8).hexdigest()


class Runs(Protocol):
    """A client, or what starts clients: a population of a study, or an attack with evasions around it."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one session."""


def needs_of(client: Runs) -> Knowledge:
    """Return what a client needs to know, or what the clients need that are started by something else."""
    inner: Any = getattr(client, "client", client)
    needs: Knowledge = inner.needs
    return needs


def converse(
    client: Runs,
    world: World,
    rng: np.random.Generator,
    *,
    queries: int = 40,
    refuse_at: int | None = None,
    knows: Knowledge | None = None,
) -> Transcript:
    """Run a client against the linear model.

    Parameters
    ----------
    client : Runs
    world : World
    rng : Generator
    queries : int
        After so many the client is stopped.
    refuse_at : int or None
        Number of the query, from 1, that is refused.
    knows : Knowledge or None
        How much the answers hold; None: what the client needs.
    """
    transcript = Transcript()
    for _ in _exchange(client, world, rng, transcript, queries, refuse_at, knows):
        pass
    return transcript


def converse_in_turns(
    sessions: list[tuple[Runs, World, np.random.Generator]], *, queries: int = 40
) -> list[Transcript]:
    """Run several clients at the same time, a query each in turn; see `converse`."""
    transcripts = [Transcript() for _ in sessions]
    running = [
        _exchange(*session, transcript, queries) for session, transcript in zip(sessions, transcripts, strict=True)
    ]
    for _ in zip_longest(*running):
        pass
    return transcripts


def _exchange(
    client: Runs,
    world: World,
    rng: np.random.Generator,
    transcript: Transcript,
    queries: int,
    refuse_at: int | None = None,
    knows: Knowledge | None = None,
) -> Iterator[None]:
    """Write a session into `transcript`, a query at a time."""
    model = SoftmaxLinear(world.shape, world.classes)
    needs = needs_of(client) if knows is None else knows
    running = client.run(world, rng)
    try:
        query = next(running)
        while True:
            transcript.queries.append(query)
            transcript.sent.append(query.image.tobytes())
            transcript.reconstruction.append(None if query.guess is None else query.guess.tobytes())
            number = len(transcript.queries)
            assert query.image.shape == world.shape, f"query {number} is no image of this world's shape"
            if number == queries:
                running.close()
                return
            yield
            query = running.send(Refusal() if number == refuse_at else model.answer(query, needs))
    except StopIteration as stop:
        transcript.ended = True
        transcript.returned = stop.value


def assert_is_image(image: Image, shape: tuple[int, ...]) -> None:
    """Check that this is an image as the protocol defines it: float32 of `shape`, finite, in [0, 1]."""
    assert isinstance(image, np.ndarray), f"{type(image).__name__}, not an ndarray"
    assert image.dtype == np.float32
    assert image.shape == shape
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
