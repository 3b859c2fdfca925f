"""MI-Face without the model's weights: the same descent, with gradients measured by finite differences of the cost.

Fredrikson, Jha and Ristenpart, "Model Inversion Attacks that Exploit Confidence Information and Basic
Countermeasures", CCS 2015, Section 5: Algorithm 1 with "numeric gradient approximation", the black-box attack.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mifsim.clients.attackers.gradients import Floats, central_differences, forward_differences, unit
from mifsim.clients.attackers.scores import ask, cost
from mifsim.clients.attackers.spaces import (
    COORDINATES_HELP,
    SPACE_HELP,
    SearchSpace,
    SpaceAttacker,
    SpaceName,
    image_of,
    search_space,
    settled,
)
from mifsim.clients.protocol import Answer, ClientGenerator, Image, Knowledge, Query, Refusal, World

_AT_A_TIME = 64
"""Number of differences whose images are computed together."""


class MIFaceNumeric(SpaceAttacker):
    r"""Descend c(x) = 1 − f_target(x) along d coordinates with d + 1 queries per step; black-box.

    ::

        z_0 = the mean auxiliary image
        for i = 0 … α:
            stop if c(z_i) has not improved for β steps, or c(z_i) ≤ γ
            g_j = (c(z_i + h e_j) − c(z_i)) / h, or a central difference, for every coordinate j
            z_{i+1} = z_i − λ · g / |g|
        return the z_i of least cost

    There are two differences from `MIFace`, both because a step is expensive. A step has a fixed length, as the
    gradient vanishes when f approaches 1. And γ is smaller: at the paper's 0.01, the victim recognises the image as the
    target class, but another classifier does not. Such small costs can be resolved because 1 − f is summed over the
    other classes (`scores.shares`). The paper's AuxTerm is omitted: if it were large enough to matter beside a cost
    below 0.01, it would prevent further progress.
    """

    needs: ClassVar[Knowledge] = Knowledge.CONFIDENCE
    sends: ClassVar[str] = "iterates and, around each, one small change per coordinate"

    space: SpaceName = Field("dct", description=SPACE_HELP)
    coordinates: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description=COORDINATES_HELP)
    differences: Literal["forward", "central"] = Field(
        "forward", description="forward: d + 1 queries per step, error of order h; central: 2 d + 1 queries, order h²"
    )
    width: float = Field(
        0.1, gt=0, le=10, description="h: width of a difference, in standard deviations of the auxiliary images"
    )
    step: Literal["auto"] | Annotated[float, Field(gt=0, le=100)] = Field(
        "auto",
        description="λ: length of a step, in standard deviations of the auxiliary images; auto: 1, or 3 in pixel "
        "space, where the deviations are a third of those of broad patterns",
    )
    alpha: int = Field(5000, ge=1, description="maximum number of steps: the paper's α")
    beta: int = Field(100, ge=0, description="steps without an improvement after which the attack stops; 0: never")
    gamma: float = Field(1e-8, ge=0, lt=1, description="cost (1 − confidence) at which the attack stops; 0: never")

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; returns the iterate of least cost."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        space = search_space(self.space, world.pool, world.shape, self.coordinates, self.generator)
        step = settled(self.step, self.space, usual=1.0, pixel=3.0)
        point = space.start
        best, least, steps_since = image_of(space, point), math.inf, 0
        for _ in range(self.alpha + 1):
            image = image_of(space, point)
            reply = yield Query(image, guess=best)
            if isinstance(reply, Refusal):
                break
            here = cost(reply, world.target)
            if here < least:
                best, least, steps_since = image, here, 0
            else:
                steps_since += 1
            if (self.gamma and here <= self.gamma) or (self.beta and steps_since >= self.beta):
                break
            gradient = yield from self._gradient(space, point, here, best, world.target)
            if gradient is None:
                break
            point = space.moved(point, -step * unit(gradient)[None])[0]
        return best

    def _gradient(
        self, space: SearchSpace, point: Floats, here: float, guess: Image, target: int
    ) -> Generator[Query, Answer | Refusal, Floats | None]:
        """Measure the gradient of the cost, shape (size,); return None if a query was refused."""
        pieces = []
        for first in range(0, space.size, _AT_A_TIME):
            changes = self.width * np.eye(min(_AT_A_TIME, space.size - first), space.size, first)
            if self.differences == "central":
                changes = np.concatenate([changes, -changes])
            answers = yield from ask(space.images(space.moved(point, changes)), guess)
            if answers is None:
                return None
            costs = np.array([cost(answer, target) for answer in answers])
            if self.differences == "central":
                ahead, behind = costs.reshape(2, -1)
                pieces.append(central_differences(ahead, behind, self.width))
            else:
                pieces.append(forward_differences(costs, here, self.width))
        return np.concatenate(pieces)
