"""Base class of users whose images do not depend on the answers, and random orders of images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mifsim.clients.protocol import ClientGenerator, Image, ImageNeed, ImagePool, Query, Refusal, User, World
from mifsim.clients.users.length import Length


class OpenStream(NamedTuple):
    """The images of one session, none of which is drawn yet.

    Attributes
    ----------
    length : int
        Number of images that the user sends if none is refused.
    images : Iterator of Image
        The images.
    places : Iterator of int or None
        Positions of these images in the pool, if the user sends them unchanged. `images` reads it, so that only one of
        the two may be used.
    pool : ImagePool or None
        The pool to which `places` refers.
    """

    length: int
    images: Iterator[Image]
    places: Iterator[int] | None = None
    pool: ImagePool | None = None


class ImageStream(User):
    """A user who sends `length` images and leaves, or leaves when refused.

    A subclass defines the images in `images`; the answers do not influence them. It can also define, for speed, the
    same images as `places` or `ahead`.
    """

    length: Length = Field(
        Length(50),
        description="images in a session: a number, {min, max} (each equally likely) or {mean} (geometric)",
    )

    @property
    def expected_queries(self) -> float | None:
        """The mean length of a session that is not refused."""
        return self.length.mean

    def image_needs(self) -> tuple[ImageNeed, ...]:
        """Return the numbers of different images that the longest session can need; see `User.image_needs`."""
        return self.needs_for(self.length.most)

    def needs_for(self, queries: int) -> tuple[ImageNeed, ...]:
        """Return the numbers of different images that this number of queries can need; empty if they are not known."""
        return ()

    @abstractmethod
    def images(self, world: World, rng: np.random.Generator) -> Iterator[Image]:
        """Yield an unlimited number of images, float32 in [0, 1], of shape ``world.shape``."""

    def places(self, world: World, rng: np.random.Generator) -> Iterator[int]:
        """Yield the positions in the pool of the images that `images` yields, from the same random numbers."""
        raise NotImplementedError

    def ahead(self, world: World, rng: np.random.Generator, length: int) -> Iterator[Image]:
        """Yield the first `length` images that `images` yields, and draw several of them at once.

        Nothing else may use `rng` meanwhile.
        """
        return self.images(world, rng)

    def open(self, world: World, rng: np.random.Generator) -> OpenStream:
        """Start one session.

        Raises
        ------
        ValueError
            If there are no images to send.
        """
        if not len(world.pool):
            raise ValueError("a user needs images to send: the pool is empty")
        length = self.length.draw(rng)
        if self._follows_images("places"):
            places = iter(self.places(world, rng))
            return OpenStream(length, map(world.pool.image, places), places, world.pool)
        if self._follows_images("ahead"):
            return OpenStream(length, iter(self.ahead(world, rng, length)))
        return OpenStream(length, iter(self.images(world, rng)))

    def _follows_images(self, method: str) -> bool:
        """Return whether a method is defined for the images of this class: not above the class that defines them."""
        order = type(self).__mro__
        defined, images = (next(c for c in order if name in c.__dict__) for name in (method, "images"))
        return defined is not ImageStream and issubclass(defined, images)

    @property
    def only_streams(self) -> bool:
        """Whether `open` says all that a client does; false for a subclass with a `run` or several sessions."""
        return type(self).run is ImageStream.run and not self.revisits

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one session; the generator returns None."""
        opened = self.open(world, rng)
        for _, image in zip(range(opened.length), opened.images, strict=False):
            if isinstance((yield Query(image)), Refusal):
                break
        return None


_SMALL = 4096
"""Number of items up to which all are shuffled at once, which is faster than drawing a session's images one by one."""


def shuffled(items: npt.NDArray[np.int64], rng: np.random.Generator) -> Iterator[int]:
    """Yield the items in random order, each once, and then repeat the same order without end.

    The order stays the same so that an item repeats only after all others: a fresh order could yield one item twice
    in a row, so that consecutive images would not be distinct.

    More than `_SMALL` items are drawn lazily: a session of 50 images out of 60,000 does not shuffle 60,000.
    """
    return cycle(rng.permutation(items).tolist() if len(items) <= _SMALL else _each_once(items, rng))


def _each_once(items: npt.NDArray[np.int64], rng: np.random.Generator) -> Iterable[int]:
    moved: dict[int, int] = {}  # Fisher-Yates on positions; only those that moved are stored
    shares: list[float] = []  # drawn in blocks, as a call of the generator takes longer than drawing a number
    for front in range(len(items)):
        if not shares:
            shares = rng.random(min(64, len(items) - front)).tolist()
        drawn = front + int(shares.pop() * (len(items) - front))
        yield int(items[moved.get(drawn, drawn)])
        moved[drawn] = moved.pop(front, front)
