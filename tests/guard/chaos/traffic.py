"""Seeded traffic for rounds of faults, and the counts that its images would reach without any fault."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from mifsim.defense import FilterConfig
from mifsim.defense.images import Pixels
from tests.guard.guards import SHAPE

NO_LIMIT = 60_000


@dataclass(frozen=True)
class Item:
    """One request of a client.

    Attributes
    ----------
    images : list of ndarray
    key : str or None
        Its Idempotency-Key.
    """

    images: list[Pixels]
    key: str | None


@dataclass(frozen=True)
class Client:
    """A client and its requests, in order. It sends each one again until it is answered, or the client is blocked."""

    name: str
    items: list[Item]

    @property
    def images(self) -> list[Pixels]:
        """All images, in order."""
        return [image for item in self.items for image in item.images]


def traffic(seed: int) -> list[Client]:
    """Return some honest clients, whose images are mostly unlike, and attackers that change one image slightly."""
    rng = random.Random(f"traffic {seed}")
    pixels = np.random.default_rng(seed)
    clients = []
    for number in range(5):
        honest = number < 3
        image = pixels.random(SHAPE, dtype=np.float32)
        images = []
        for _ in range(rng.randrange(8, 20)):
            if honest and rng.random() < 0.85:
                image = pixels.random(SHAPE, dtype=np.float32)
            elif not honest:
                noise = np.float32(rng.choice((0.003, 0.02, 0.2))) * pixels.standard_normal(SHAPE, np.float32)
                image = np.clip(image + noise, 0, 1).astype(np.float32)
            images.append(image)
        clients.append(Client(f"{'honest' if honest else 'attacker'} {number}", _items(images, rng, honest)))
    return clients


def _items(images: list[Pixels], rng: random.Random, honest: bool) -> list[Item]:
    items = []
    while images:
        size = rng.choice((1, 1, 1, 1, 2, 3))
        while honest and len({id(image) for image in images[:size]}) < len(images[:size]):
            size -= 1  # see `repeated`
        items.append(Item(images[:size], f"key {len(items)}" if rng.random() < 0.6 else None))
        images = images[size:]
    return items


def counts(config: FilterConfig, client: Client) -> list[float]:
    """Return the count after each image if nothing is lost, and nothing is blocked."""
    detector = replace(config, l_sp=NO_LIMIT).detector()
    found = []
    for image in client.images:
        detector.check(image)
        found.append(float(detector.count))
    return found


def loss(config: FilterConfig) -> int:
    """Return the largest number of counts that are missing after the images of a session were forgotten once.

    The j-th query after the loss is compared with j - 1 images instead of n_b, for j up to n_b. With ``per_match``, all
    n_b + (n_b - 1) + ... + 1 missing comparisons could have been matches; with ``per_query``, each of the n_b queries
    could have been counted. A query that was counted before the loss, and is sent again after it, adds an image, so
    that no more than this is missing.
    """
    return config.n_b * (config.n_b + 1) // 2 if config.count_rule == "per_match" else config.n_b


def repeated(config: FilterConfig, client: Client) -> float:
    """Return the largest count that a request of a client reaches by itself.

    A batch that was counted, and whose answer was lost with the process, counts this once more when it is sent again:
    its matches with other images are not found again, but those among its own images are. It is 0 for one image, and
    for unlike images.
    """
    return max(counts(config, Client(client.name, [item]))[-1] for item in client.items)


def most_answers(config: FilterConfig, client: Client, losses: int) -> int:
    """Return the largest number of images of a client that may be answered if its images were forgotten this often."""
    reached = counts(config, client)
    answered = 0
    for item in client.items:
        end = answered + len(item.images)
        if any(count - losses * loss(config) >= config.l_sp for count in reached[answered:end]):
            break
        answered = end
    return answered
