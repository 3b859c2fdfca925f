"""An inversion network: learn what the model says of natural images, backwards.

Yang, Zhang, Chang and Liang, "Neural Network Inversion in Adversarial Setting via Background Knowledge Alignment",
CCS 2019: its black-box attack, with truncated predictions.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mifsim.clients.attackers.inversion import WeightedMean, near_one_hot, reconstruct
from mifsim.clients.protocol import Answer, Attacker, ClientGenerator, Image, Knowledge, Query, Refusal, World


class InversionNetwork(Attacker):
    """Ask for each auxiliary image once, then train a network from answers to images.

    The network (a dense layer, transposed convolutions) takes the truncated, clamped logarithm of an answer and
    minimises the squared error to the image that was answered so, by Adam. The reconstruction of a class is what it
    makes of an answer that is all but sure of it. All queries are natural images, none twice: to a filter that looks
    for images alike the attacker is an honest user.

    While it asks it holds the mean of the images asked, weighted by the confidence in the target: what the network
    would make of them, to a first approximation, without training one after every answer. In the end, or when it is
    refused, it trains on the answers it has and returns the network's image. An attacker stopped by its budget cannot
    train any more: ask for no more images than that.
    """

    needs: ClassVar[Knowledge] = Knowledge.TOP_K
    sends: ClassVar[str] = "natural auxiliary images, none twice"

    images: int = Field(500, ge=1, description="auxiliary images asked, at random; all, if there are no more")
    steps: int = Field(1000, ge=1, le=100_000, description="batches of 50 images that the training takes")
    top: int = Field(
        3, ge=1, description="highest confidences of an answer that the network is given; the others are 0"
    )
    floor: float = Field(10.0, gt=0, le=100, description="logarithms of confidences below -floor are taken for -floor")
    certainty: float = Field(
        0.9999, gt=0, lt=1, description="confidence in the class in the answer that is inverted in the end"
    )

    @property
    def expected_queries(self) -> float | None:
        """One an image, if the auxiliary set holds so many."""
        return float(self.images)

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; returns what the network makes of it."""
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
        if not answers:
            return mean.image
        return self._trained(world, answers)

    def _trained(self, world: World, answers: dict[int, npt.NDArray[Any]]) -> Image:
        assert world.target is not None
        asked = sorted(answers)  # not in the order of asking: who has asked the same shares one training
        return reconstruct(
            [answers[index] for index in asked],
            [world.pool.image(index) for index in asked],
            near_one_hot(world.target, world.classes, self.certainty),
            top=self.top,
            floor=self.floor,
            steps=self.steps,
        )


def _confidence(answer: Answer, classes: int) -> npt.NDArray[Any]:
    """Return the answer's confidences; where there is a label alone, it counts as certain."""
    if answer.confidence is not None:
        return answer.confidence
    alone = np.full(classes, np.nan)
    alone[answer.label] = 1.0
    return alone
