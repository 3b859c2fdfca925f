"""Small test environments for clients: random images, a linear softmax model, and a server for one session."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mifsim.clients import Answer, ClientGenerator, Image, Knowledge, Query, Refusal, World


class StrictPool:
    """An image pool that accepts only what the protocol allows: no negative indices, and read-only arrays.

    Parameters
    ----------
    images : ndarray of float32, shape (n, H, W) or (n, H, W, 3)
        In [0, 1]; becomes read-only.
    labels : ndarray of int64, shape (n,)
        Class of each image; becomes read-only.
    """

    def __init__(self, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
        self._images = images
        self._images.setflags(write=False)
        self.labels = labels
        self.labels.setflags(write=False)

    @classmethod
    def random(cls, shape: tuple[int, ...], classes: int, each: int, seed: int = 0) -> StrictPool:
        """Return a pool of images of uniform noise, with `each` images per class."""
        images = np.random.default_rng(seed).random((classes * each, *shape), np.float32)
        return cls(images, np.tile(np.arange(classes), each))

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image:
        """Return one image; raise `AssertionError` for a negative index or one out of range."""
        assert 0 <= index < len(self), f"index = {index}: expected 0 to {len(self) - 1}"
        image: Image = self._images[index]
        return image

    def index_of(self, image: Image) -> int:
        """Return the index of the image in the pool with the same pixels; -1 if there is none."""
        (hits,) = np.nonzero((self._images == image).reshape(len(self), -1).all(axis=1))
        return int(hits[0]) if len(hits) else -1


class SoftmaxLinear:
    """A linear model f(x) = softmax(W x + b) with the gradient df_t/dx = f_t (W_t − sum_k f_k W_k).

    Parameters
    ----------
    shape : tuple of int
        Shape of an image.
    classes : int
        Number of classes.
    seed : int
        Seed of the random W and b.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.weights = rng.normal(0, 0.3, (classes, *shape))
        self.bias = rng.normal(0, 1, classes)

    def confidence(self, image: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the confidence of each class, in [0, 1], shape (classes,)."""
        logits = np.tensordot(self.weights, image, image.ndim) + self.bias
        powers = np.exp(logits - logits.max())
        confidence: npt.NDArray[np.float64] = powers / powers.sum()
        return confidence

    def gradient(self, image: npt.NDArray[np.floating], label: int) -> npt.NDArray[np.float64]:
        """Return the gradient of the confidence of one class, with the shape of the image."""
        f = self.confidence(image)
        gradient: npt.NDArray[np.float64] = f[label] * (self.weights[label] - np.tensordot(f, self.weights, 1))
        return gradient

    def answer(self, query: Query, knowledge: Knowledge) -> Answer:
        """Return the answer to a query, restricted to `knowledge`, with read-only arrays."""
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
    """Return a world with six random images per class."""
    return World(shape, classes, StrictPool.random(shape, classes, each=6, seed=seed), target)


@dataclass
class Transcript:
    """Record of one session.

    Attributes
    ----------
    queries : list of Query
        Queries of the client.
    sent : list of bytes
        Copies of the submitted images, made when the queries arrived.
    reconstruction : list of bytes or None
        Copies of the guesses, made at the same time; None for a query without a guess.
    ended : bool
        Whether the client returned; False if it was stopped at the limit of queries.
    returned : Image or None
        The client's return value.
    """

    queries: list[Query] = field(default_factory=list, repr=False)
    sent: list[bytes] = field(default_factory=list, repr=False)
    reconstruction: list[bytes | None] = field(default_factory=list, repr=False)
    ended: bool = False
    returned: Image | None = field(default=None, repr=False)

    @property
    def digests(self) -> list[str]:
        """One line per query and one for the end; equal for sessions in which clients behave identically."""
        lines = [
            f"{_digest(sent)} {_digest(guess)} {query.gradient_of} "
            f"{query.new_session} {query.new_client} {query.account}"
            for query, sent, guess in zip(self.queries, self.sent, self.reconstruction, strict=True)
        ]
        returned = None if self.returned is None else self.returned.tobytes()
        return [*lines, f"returned {_digest(returned)}" if self.ended else "stopped"]


def _digest(content: bytes | None) -> str:
    return "none" if content is None else hashlib.blake2b(content, digest_size=8).hexdigest()


class Runs(Protocol):
    """Interface of a client, and of objects that start clients: a population, or an attack wrapped in evasions."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one session."""


def needs_of(client: Runs) -> Knowledge:
    """Return the knowledge that a client needs, or that the clients started by another object need."""
    inner: Any = getattr(client, "client", client)
    needs: Knowledge = inner.needs
    return needs


def converse(
    client: Runs,
    world: World,
    rng: np.random.Generator,
    *,
    queries: int = 40,
    refuse_at: int | Container[int] | None = None,
    knows: Knowledge | None = None,
) -> Transcript:
    """Run a client against the linear model.

    Parameters
    ----------
    client : Runs
    world : World
    rng : Generator
    queries : int
        Number of queries after which the client is stopped.
    refuse_at : int or container of int or None
        Numbers of the queries, from 1, that are refused; None for no refusal.
    knows : Knowledge or None
        Content of the answers; None for the knowledge that the client needs.
    """
    transcript = Transcript()
    for _ in _exchange(client, world, rng, transcript, queries, refuse_at, knows):
        pass
    return transcript


def converse_in_turns(
    sessions: list[tuple[Runs, World, np.random.Generator]], *, queries: int = 40
) -> list[Transcript]:
    """Run several clients interleaved, one query of each in turn; see `converse`."""
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
    refuse_at: int | Container[int] | None = None,
    knows: Knowledge | None = None,
) -> Iterator[None]:
    """Run a session, append it to `transcript`, and yield after each query."""
    model = SoftmaxLinear(world.shape, world.classes)
    needs = needs_of(client) if knows is None else knows
    refused = (refuse_at,) if refuse_at is None or isinstance(refuse_at, int) else refuse_at
    running = client.run(world, rng)
    try:
        query = next(running)
        while True:
            transcript.queries.append(query)
            transcript.sent.append(query.image.tobytes())
            transcript.reconstruction.append(None if query.guess is None else query.guess.tobytes())
            number = len(transcript.queries)
            assert query.image.shape == world.shape, (
                f"query {number} has an image of shape {query.image.shape}; expected {world.shape}"
            )
            if number == queries:
                running.close()
                return
            yield
            query = running.send(Refusal(query.account) if number in refused else model.answer(query, needs))
    except StopIteration as stop:
        transcript.ended = True
        transcript.returned = stop.value


def uses_another_session(query: Query) -> bool:
    """Return whether a query leaves its session or uses another account, which only a closed-loop client may."""
    return query.new_session or query.new_client or query.account != 0


def assert_is_image(image: Image, shape: tuple[int, ...]) -> None:
    """Check that an object is a valid image of the protocol: float32 of shape `shape`, finite, in [0, 1]."""
    assert isinstance(image, np.ndarray), f"got {type(image).__name__}; expected a numpy array"
    assert image.dtype == np.float32
    assert image.shape == shape
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
