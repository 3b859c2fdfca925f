"""Score-based inversion by natural evolution strategies: gradients estimated from antithetic pairs.

Wierstra et al., "Natural Evolution Strategies", JMLR 15 (2014), with the fixed isotropic search distribution and
antithetic sampling that Ilyas et al., "Black-box Adversarial Attacks with Limited Queries and Information", ICML 2018,
Algorithm 1, use to estimate a classifier's gradient; here the gradient leads towards a class, not away from one.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mifsim.clients.attackers.gradients import antithetic, unit
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

PRIOR_HELP = (
    "weight of the auxiliary images' Gaussian log density, which is added to the score and keeps the image similar to "
    "them; auto: 0.2, or 0.02 in pixel space, where the density has about ten times as many terms"
)


class NES(SpaceAttacker):
    r"""Climb J(z) = E[log-odds of the target + w · log p(z + σ u)], u normal, with 2 n queries per step; black-box.

    ::

        z_0 = the mean auxiliary image
        for i = 0, 1, …:
            draw u_1 … u_n; query z_i ± σ u_k
            g = mean of (J(z_i + σ u_k) − J(z_i − σ u_k)) u_k / 2σ
            z_{i+1} = z_i + λ · g / |g|
        return the z_i whose 2 n values have the largest mean: the estimate of J(z_i) itself

    The iterates themselves are not sent; the value of an iterate is estimated from the answers around it.
    """

    needs: ClassVar[Knowledge] = Knowledge.CONFIDENCE
    sends: ClassVar[str] = "antithetic pairs around an iterate: x + σu, x − σu"

    space: SpaceName = Field("dct", description=SPACE_HELP)
    coordinates: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description=COORDINATES_HELP)
    pairs: int = Field(10, ge=1, description="n: pairs per step, with two queries each")
    sigma: float = Field(
        0.1,
        gt=0,
        le=10,
        description="σ: scale of a pair's distance from the iterate, in standard deviations per coordinate",
    )
    step: float = Field(0.5, gt=0, le=100, description="λ: length of a step, in standard deviations")
    score: Score = Field("log-odds", description=SCORE_HELP)
    prior: Literal["auto"] | Annotated[float, Field(ge=0, le=1000)] = Field("auto", description=PRIOR_HELP)

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; it continues until it is refused or its budget is spent."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        space = search_space(self.space, world.pool, world.shape, self.coordinates, self.generator)
        prior = settled(self.prior, self.space, usual=0.2, pixel=0.02)
        point = space.start
        best, most = image_of(space, point), -math.inf
        while True:
            directions = rng.standard_normal((self.pairs, space.size))
            asked = space.moved(point, self.sigma * np.concatenate([directions, -directions]))
            # Sent pair by pair: + − + − …
            images = space.images(asked).reshape(2, self.pairs, *world.shape).swapaxes(0, 1)
            answers = yield from ask(images.reshape(-1, *world.shape), best)
            if answers is None:
                return best
            scores = np.array([score(answer, world.target, self.score) for answer in answers])
            ahead, behind = scores.reshape(self.pairs, 2).T + prior * space.log_prior(asked).reshape(2, -1)
            value = float(np.mean([ahead, behind]))
            if value > most:
                best, most = image_of(space, point), value
            gradient = antithetic(ahead, behind, directions, self.sigma)
            point = space.moved(point, self.step * unit(gradient)[None])[0]
