"""Inversion by a network that learns the inverse of the model from its answers to natural images.

Yang, Zhang, Chang and Liang, "Neural Network Inversion in Adversarial Setting via Background Knowledge Alignment",
CCS 2019: the black-box attack, with truncated predictions.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mifsim.clients.attackers.inversion import WeightedMean, near_one_hot, reconstruct
from mifsim.clients.protocol import Answer, Attacker, ClientGenerator, Image, Knowledge, Query, Refusal, World


class InversionNetwork(Attacker):
    """Query each auxiliary image once, then train a network that maps answers to images.

    The network (a dense layer and transposed convolutions) takes the truncated, clamped logarithm of an answer. Adam
    minimises its squared error to the queried image. The reconstruction of a class is its output for an answer with
    almost full confidence in that class. All queries are distinct natural images: a detector of similar images cannot
    distinguish the attacker from an honest user.

    During the queries, the current reconstruction is the mean of the queried images, weighted by the confidence in
    the target. This approximates the network's output without a training after every answer. At the end, or when
    refused, the attacker trains on all answers and returns the network's image. An attacker that has spent its budget
    cannot train: do not set `images` higher than the budget.
    """

    needs: ClassVar[Knowledge] = Knowledge.TOP_K
    sends: ClassVar[str] = "natural auxiliary images, none twice"

    images: int = Field(500, ge=1, description="number of auxiliary images, drawn at random; all if there are fewer")
    steps: int = Field(1000, ge=1, le=100_000, description="training steps, each on a batch of 50 images")
    top: int = Field(
        3, ge=1, description="number of highest confidences of an answer that the network receives; the others are 0"
    )
    floor: float = Field(10.0, gt=0, le=100, description="the logarithms of confidences are at least -floor")
    certainty: float = Field(
        0.9999, gt=0, lt=1, description="confidence in the target class in the answer that is inverted"
    )

    @property
    def expected_queries(self) -> float | None:
        """Number of images, if the auxiliary set has enough of them."""
        return float(self.images)

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; returns the network's image of that class."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        order = rng.permutation(len(world.pool))[: self.images]
        mean = WeightedMean(world.pool.image(int(order[0])))
        answers: dict[int, npt.NDArray[Any]] = {}
        for index in order:
            image = world.pool.image(int(index))
            reply = yield Query(image, guess=mean.image)
            if isinstance(reply, Refusal):
                break
            answers[int(index)] = _confidence(reply, world.classes)
            mean.add(image, float(answers[int(index)][world.target]))
        if not answers or not world.reconstructs:
            return mean.image
        return self._trained(world, answers)

    def _trained(self, world: World, answers: dict[int, npt.NDArray[Any]]) -> Image:
        assert world.target is not None
        asked = sorted(answers)  # not in query order: attackers with the same queries share one training
        return reconstruct(
            [answers[index] for index in asked],
            [world.pool.image(index) for index in asked],
            near_one_hot(world.target, world.classes, self.certainty),
            top=self.top,
            floor=self.floor,
            steps=self.steps,
        )


def _confidence(answer: Answer, classes: int) -> npt.NDArray[Any]:
    """Return the answer's confidences; if it has only a label, 1 for that class and NaN for the others."""
    if answer.confidence is not None:
        return answer.confidence
    alone = np.full(classes, np.nan)
    alone[answer.label] = 1.0
    return alone
