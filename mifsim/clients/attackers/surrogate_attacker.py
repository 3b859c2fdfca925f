"""What the attacks with a surrogate have in common: its latent space, its training, and its search."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from mifsim.clients.attackers.latent import LatentSpace, fit_latent
from mifsim.clients.attackers.spaces import LATENT_COORDINATES, SpaceAttacker
from mifsim.clients.attackers.surrogate import Float32s, Floats, Surrogate, best_point, trained_surrogate
from mifsim.clients.protocol import World


class SurrogateAttacker(SpaceAttacker):
    """An attacker that trains a surrogate on the answers to images of a latent space, and searches it.

    The points and the trained surrogate depend on the auxiliary images and the arguments only, so that they are the
    same for all attackers of a population.
    """

    space: Literal["autoencoder", "pca", "gan"] = Field(
        "autoencoder", description="latent space of the auxiliary images"
    )
    size: int = Field(LATENT_COORDINATES, ge=1, le=1024, description="coordinates of the latent space")
    balance: float = Field(
        0.9, ge=0, lt=1, description="β of the class-balanced weights of the answers; 0: all weigh the same"
    )
    networks: int = Field(3, ge=1, le=16, description="number of networks of the surrogate")
    epochs: int = Field(16, ge=1, le=10_000, description="passes over the answers by which the surrogate is trained")
    turns: int = Field(100, ge=0, le=100_000, description="turns of the search of the surrogate, without queries")
    prior: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="weight of the prior's log density, which is added to the surrogate's log confidence",
    )
    sigma: float = Field(
        0.5,
        gt=0,
        allow_inf_nan=False,
        description="standard deviation of the first points of a search; that of the prior is 1",
    )
    bound: float = Field(
        2.5, gt=0, allow_inf_nan=False, description="latent coordinates are kept between -bound and bound"
    )

    def latent_space(self, world: World) -> LatentSpace:
        """Return the latent space of the auxiliary images."""
        return fit_latent(world.pool, world.shape, self.space, self.size, generator=self.generator)

    def points(self, space: LatentSpace, name: str, count: int) -> Floats:
        """Return points of the prior, shape (count, size): the same for every attacker of the kind `name`."""
        return np.clip(space.sample(space.shared_rng(name, count), count), -self.bound, self.bound)

    def train(self, space: LatentSpace, z: Floats, answers: Float32s) -> Surrogate:
        """Return the surrogate of the answers (n, classes) to the images of some points (n, size)."""
        return trained_surrogate(space, z, answers, balance=self.balance, networks=self.networks, epochs=self.epochs)

    def optimum(
        self, space: LatentSpace, surrogate: Surrogate, target: int, start: Floats, rng: np.random.Generator
    ) -> Floats:
        """Return the best point of a surrogate for a class, shape (size,), searched from `start` without any query."""
        return best_point(
            space,
            surrogate,
            target,
            start,
            prior=self.prior,
            sigma=self.sigma,
            bound=self.bound,
            turns=self.turns,
            rng=rng,
        )
