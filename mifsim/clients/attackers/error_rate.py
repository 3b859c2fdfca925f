"""Label-only inversion by error rates: the rate at which noise changes the label replaces the confidence.

Zhu, Ye, Zhou, Liu and Zhou, "Label-Only Model Inversion Attacks: Attack With the Least Information", IEEE TIFS 2022
(reference 26 of the defence's paper), followed by the inversion network of Yang et al. (`inversion_network`).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mifsim.clients.attackers.inversion import WeightedMean, near_one_hot, reconstruct
from mifsim.clients.protocol import Attacker, ClientGenerator, Image, Knowledge, Query, Refusal, World


class ErrorRate(Attacker):
    """Query noisy copies of auxiliary images, count the labels, and train an inversion network on their shares.

    An image far from the decision boundary keeps its label under noise. For a linear model with two classes and
    Gaussian noise, the share of a label is Φ(margin / sd) and its error rate Φ(-margin / sd), which are as informative
    as the confidence itself. The network inverts the shares of the labels; `prior` is added to each count so that no
    share is 0.

    During the queries, the current reconstruction is the mean of the images, weighted by the target's share (see
    `InversionNetwork`). At the end, or when refused, the attacker trains on the images of which every copy was
    answered, and returns the network's image.
    """

    needs: ClassVar[Knowledge] = Knowledge.LABEL
    sends: ClassVar[str] = "noisy copies of natural auxiliary images, one image after the other"

    images: int = Field(100, ge=1, description="number of auxiliary images, drawn at random; all if there are fewer")
    draws: int = Field(10, ge=1, le=10_000, description="noisy copies queried of each image")
    noise: float = Field(
        0.2, gt=0, le=10, description="standard deviation of the noise (pixels: 0 to 1); copies are clipped to 0 to 1"
    )
    prior: float = Field(0.1, gt=0, le=100, description="number added to the count of each label")
    steps: int = Field(800, ge=1, le=100_000, description="training steps, each on a batch of 50 images")
    certainty: float = Field(0.99, gt=0, lt=1, description="share of the target class in the vector that is inverted")
    top: int = Field(1, ge=1, description="number of highest shares that the network receives; the others are 0")
    floor: float = Field(5.0, gt=0, le=100, description="the logarithms of shares are at least -floor")

    @property
    def expected_queries(self) -> float | None:
        """Number of images times copies, if the auxiliary set has enough images."""
        return float(self.images * self.draws)

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; returns the network's image of that class."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        order = rng.permutation(len(world.pool))[: self.images]
        mean = WeightedMean(world.pool.image(int(order[0])))
        shares: dict[int, npt.NDArray[np.float64]] = {}
        for index in order:
            image = world.pool.image(int(index))
            counts = np.zeros(world.classes, np.int64)
            for _ in range(self.draws):
                reply = yield Query(self._noisy(image, rng), guess=mean.image)
                if isinstance(reply, Refusal):
                    break
                counts[reply.label] += 1
            if counts.sum() < self.draws:
                break
            shares[int(index)] = label_shares(counts, self.prior)
            mean.add(image, float(shares[int(index)][world.target]))
        if not shares or not world.reconstructs:
            return mean.image
        asked = sorted(shares)
        return reconstruct(
            [shares[index] for index in asked],
            [world.pool.image(index) for index in asked],
            near_one_hot(world.target, world.classes, self.certainty),
            top=self.top,
            floor=self.floor,
            steps=self.steps,
        )

    def _noisy(self, image: Image, rng: np.random.Generator) -> Image:
        noise = rng.standard_normal(image.shape, np.float32)
        return np.clip(image + np.float32(self.noise) * noise, np.float32(0), np.float32(1))


def label_shares(counts: npt.ArrayLike, prior: float) -> npt.NDArray[np.float64]:
    """Return the share of each label after adding `prior` to each count: the mean of a Dirichlet posterior.

    Examples
    --------
    >>> label_shares([8, 0], prior=1.0)
    array([0.9, 0.1])
    """
    raised = np.asarray(counts, np.float64) + prior
    return np.asarray(raised / raised.sum())
