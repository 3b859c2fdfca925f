"""The evasion of a white-box attacker that adds the scalars of the detector ``evidence`` to its cost."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.evasion import Evasion, Start
from mifsim.clients.evasions.scalars import Floats, Scalars, SentQueries
from mifsim.clients.protocol import Answer, ClientGenerator, Query, Refusal, World

MEMORY = 1000
"""Number of its own queries that the attacker compares, as many as the detector by default."""
MOST_LOWERED = 80.0
"""Largest decrease of the target's log-odds; beyond it, a float32 would round the confidence to 0."""


class Penalty(Evasion):
    r"""Evade ``evidence`` with full knowledge of it: search for images that its scalars do not tell from natural ones.

    The attacker knows the detector's features, but not the server's own images, and measures the same features with its
    auxiliary images: ``average``, ``noisy`` and ``smooth`` of each image, and ``neighbours``, the distance to the k-th
    nearest of the queries that it sent itself. S is the sum of the penalties, each how far a scalar is beyond the
    auxiliary images' quantile, in standard deviations (`Scalars`). The attack maximises the joint score

        log-odds of the target − weight · S

    without a further query, because it receives altered answers. With p_t the target's confidence and a = exp(−weight
    · S), p_t becomes a p_t / Z and the others p_k / Z, where Z = a p_t + 1 − p_t. This is a probability vector
    whose log-odds of the target are lowered by weight · S, at most by `MOST_LOWERED`; the label is its largest entry.
    A white-box attack receives the gradient of the altered confidence: the model's, minus the gradient of S.

    An image whose own penalty (S without ``neighbours``) is above `most` is not sent: it would raise a flag, and the
    attack has to leave this region anyway. The answer is that of a model that knows nothing, with all classes equally
    likely, altered in the same way, so that the attack follows S alone. It costs no query. After `skip` such answers in
    a row, an image is sent all the same. The first one is always sent, because it shows what the server discloses. If
    that is the label alone, the label of an image above `most` becomes another class than the target.

    Attacks with a search space that contains no natural image, such as 20 principal components, which have no fine
    structure, cannot escape all penalties. Inside this evasion, `texture` or `mimic` gives their images what they lack,
    and the penalty is on the images with these changes.

    References
    ----------
    The attacker that adds a detector to its cost is that of Carlini and Wagner, *Adversarial Examples Are Not Easily
    Detected* (2017).
    """

    main: ClassVar[str | None] = "weight"
    # The cost of one query for each of the attack is an upper bound: images that are not sent cost nothing.

    weight: float = Field(1.0, gt=0, le=1e4, description="log-odds that an image loses for each unit of the penalty")
    share: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="share of the auxiliary images that are beyond the bound of a scalar; the larger, the stricter",
    )
    k: int = Field(5, ge=1, le=100, description="which nearest of the earlier queries is compared, as in the detector")
    most: float = Field(0.5, ge=0, le=1e4, description="own penalty of an image above which it is not sent")
    skip: int = Field(
        100, ge=0, le=10_000, description="maximum number of images in a row that are not sent; 0: all are sent"
    )

    def run(self, attack: Start, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start the wrapped attack; see `Evasion.run`."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        scalars = Scalars.of(world.pool, world.shape, self.share, self.k)
        sent: defaultdict[int, SentQueries] = defaultdict(partial(SentQueries, self.k, MEMORY))
        unknown: Answer | None = None  # an answer without information, of the same form as the server's
        skipped = 0
        running = attack(world, rng)
        try:
            query = next(running)
            while True:
                if query.new_client:
                    sent.pop(query.account, None)
                earlier, measured = sent[query.account], scalars.measure(query.image)
                image_penalty = scalars.of_image(measured)
                penalty = image_penalty + scalars.of_nearness(earlier.nearest(measured.coordinates)[0])
                slope = None
                if query.gradient_of is not None:
                    slope = scalars.gradient(query.image, measured, earlier).reshape(world.shape)
                opens = query.new_session or query.new_client
                if unknown is not None and image_penalty > self.most and skipped < self.skip and not opens:
                    skipped += 1
                    reply: Answer | Refusal = unknown
                else:
                    skipped = 0
                    reply = yield query._replace(guess=query.reconstruction)
                    if not isinstance(reply, Refusal):
                        earlier.add(measured.coordinates)
                        unknown = unknown or uninformed(reply, world.target, world.classes)
                if not isinstance(reply, Refusal):
                    reply = self._altered(reply, query, world, image_penalty, penalty, slope)
                query = running.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _altered(
        self, answer: Answer, query: Query, world: World, image_penalty: float, penalty: float, slope: Floats | None
    ) -> Answer:
        assert world.target is not None
        if answer.confidence is None:
            hidden = image_penalty > self.most and answer.label == world.target
            return answer._replace(label=(world.target + 1) % world.classes) if hidden else answer
        return lowered(answer, world.target, self.weight, penalty, query.gradient_of, slope)


def uninformed(answer: Answer, target: int, classes: int) -> Answer:
    """Return an answer of the same form with equally likely classes, and a label that is not the target."""
    other = (target + 1) % classes
    if answer.confidence is None:
        return Answer(other)
    return Answer(other, np.full(classes, 1 / classes, np.float32))


def lowered(
    answer: Answer, target: int, weight: float, penalty: float, gradient_of: int | None, slope: Floats | None
) -> Answer:
    """Return an answer in which the target's log-odds are lowered by a penalty.

    Parameters
    ----------
    answer : Answer
        With confidences; withheld ones (NaN) stay withheld.
    target : int
        The class under attack.
    weight, penalty : float
        The log-odds are lowered by their product, at most by `MOST_LOWERED`.
    gradient_of : int or None
        The class whose gradient the query requested.
    slope : ndarray, or None
        Gradient of the penalty, of the shape of the image.

    Returns
    -------
    Answer
        With the label of highest confidence and, if `gradient_of` is the target, the gradient of its altered
        confidence.
    """
    assert answer.confidence is not None
    every = answer.confidence.astype(np.float64)
    if np.isnan(every[target]):
        return answer
    p = float(every[target])
    others = float(every[:target].sum() + every[target + 1 :].sum())  # 1 − p rounds to 0 near 1
    if np.isnan(others):
        others = 1 - p
    a = float(np.exp(-min(weight * penalty, MOST_LOWERED)))
    whole = a * p + others
    if whole <= 0:
        return answer
    every[target] = a * p
    changed = (every / whole).astype(np.float32)
    gradient = answer.gradient
    if gradient_of == target and slope is not None:
        model = 0 if gradient is None else gradient.astype(np.float64)
        gradient = (a / whole**2 * (model - weight * p * others * slope)).astype(np.float32)
    return Answer(int(np.nanargmax(changed)), changed, gradient)
