"""Score-based inversion by simultaneous perturbation: two queries per step, whatever the number of coordinates.

Spall, "Multivariate Stochastic Approximation Using a Simultaneous Perturbation Gradient Approximation", IEEE
Transactions on Automatic Control 37 (1992); the gain sequences are those of his "Implementation of the Simultaneous
Perturbation Algorithm for Stochastic Optimization", IEEE Transactions on Aerospace and Electronic Systems 34 (1998).
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mifsim.clients.attackers.gradients import antithetic
from mifsim.clients.attackers.nes import PRIOR_HELP
from mifsim.clients.attackers.scores import SCORE_HELP, Score, ask, score
from mifsim.clients.attackers.spaces import (
    COORDINATES_HELP,
    SPACE_HELP,
    SpaceAttacker,
    SpaceName,
    image_of,
    search_space,
    settled,
)
from mifsim.clients.protocol import ClientGenerator, Knowledge, World

ALPHA = 0.602
GAMMA = 0.101
"""Exponents of the gains: the smallest that the theory allows, which Spall (1998) finds to work best."""


class SPSA(SpaceAttacker):
    r"""Climb J(z) = log-odds of the target + w · log p(z) with one random pair of queries per step; black-box.

    ::

        z_0 = the mean auxiliary image
        for k = 0, 1, …:
            draw signs δ; query z_k ± c_k δ             c_k = σ / (k + 1)^0.101
            g = (J(z_k + c_k δ) − J(z_k − c_k δ)) / 2c_k · δ
            z_{k+1} = z_k + a_k · g                     a_k = a / (1 + k / A)^0.602
        return the z_k of the largest (J(z_k + c_k δ) + J(z_k − c_k δ)) / 2, which is J(z_k) up to c_k²
    """

    needs: ClassVar[Knowledge] = Knowledge.CONFIDENCE
    sends: ClassVar[str] = "one antithetic pair around each iterate: x + cδ, x − cδ, random signs δ"

    space: SpaceName = Field("dct", description=SPACE_HELP)
    coordinates: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description=COORDINATES_HELP)
    sigma: float = Field(
        0.1,
        gt=0,
        le=10,
        description="σ: distance of the first pair from the start along each coordinate, in standard deviations",
    )
    gain: Literal["auto"] | Annotated[float, Field(gt=0, le=100)] = Field(
        "auto",
        description="a: factor of the first gradient estimate; auto: 0.02, or 0.1 in pixel space",
    )
    stability: float = Field(50, gt=0, description="A: number of steps after which the gain begins to decrease")
    score: Score = Field("log-odds", description=SCORE_HELP)
    prior: Literal["auto"] | Annotated[float, Field(ge=0, le=1000)] = Field("auto", description=PRIOR_HELP)

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; it continues until it is refused or its budget is spent."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        space = search_space(self.space, world.pool, world.shape, self.coordinates, self.generator)
        prior = settled(self.prior, self.space, usual=0.2, pixel=0.02)
        gain = settled(self.gain, self.space, usual=0.02, pixel=0.1)
        point = space.start
        best, most, k = image_of(space, point), -math.inf, 0
        while True:
            width = self.sigma * float(k + 1) ** -GAMMA
            signs = 2 * rng.integers(0, 2, (1, space.size)).astype(np.float64) - 1
            asked = space.moved(point, width * np.concatenate([signs, -signs]))
            answers = yield from ask(space.images(asked), best)
            if answers is None:
                return best
            scores = np.array([score(answer, world.target, self.score) for answer in answers])
            ahead, behind = scores + prior * space.log_prior(asked)
            value = float(ahead + behind) / 2
            if value > most:
                best, most = image_of(space, point), value
            gradient = antithetic(np.array([ahead]), np.array([behind]), signs, width)
            point = space.moved(point, gain / (1 + k / self.stability) ** ALPHA * gradient[None])[0]
            k += 1
