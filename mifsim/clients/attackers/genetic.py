"""A genetic search of a latent space for the image of highest confidence.

An, Tao, Xu, Liu, Shen, Yao, Xu and Zhang, "MIRROR: Model Inversion for Deep Learning Network with High Fidelity",
NDSS 2022, Section V: the black-box attack, in the latent space of a small GAN, of an autoencoder or of principal
components instead of StyleGAN's.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from mifsim.clients.attackers.latent import fit_latent
from mifsim.clients.attackers.spaces import SpaceAttacker
from mifsim.clients.protocol import Answer, ClientGenerator, Image, Knowledge, Query, Refusal, World

LEAST_CONFIDENCE = 1e-30
"""Replaces a confidence that is smaller or withheld."""


class Genetic(SpaceAttacker):
    r"""Evolve latent points; their fitness is the logarithm of the model's confidence in the target class.

    ::

        draw `pool` points from the prior; the fittest `population` of them are the first generation
        repeat:
            keep the fittest point (the elite; its image is not queried again)
            population − 1 times: draw two parents by the softmax of their fitness; take each coordinate of the child
                from either parent; with probability `mutation`, add N(0, `spread`²) to it
        return the image of the fittest point of all

    The softmax of log confidences equals the confidences divided by their sum. If no coordinate of a child mutates,
    one is drawn at random to mutate: otherwise a child of two equal parents would equal them, and the attack would
    repeat a query.

    The authors' program queries a pool of 100,000 images once for all classes (``pool = 100000, shared = "pool"``),
    takes the 100 best of it for each class, and ends after 100 generations or at a confidence of 0.95 (``enough =
    0.95``). It draws each coordinate of a child from the fitter parent with a higher probability; here, both parents
    have the same.
    """

    needs: ClassVar[Knowledge] = Knowledge.TOP_K
    sends: ClassVar[str] = "samples of a latent prior, then children near the fittest"

    space: Literal["autoencoder", "pca", "gan"] = Field(
        "autoencoder", description="latent space of the auxiliary images"
    )
    size: int = Field(20, ge=1, le=1024, description="coordinates of the latent space")
    pool: int = Field(200, ge=2, le=100_000, description="points drawn from the prior and queried at the start")
    population: int = Field(50, ge=2, le=100_000, description="number of points in a generation, including the elite")
    mutation: float = Field(0.1, ge=0, le=1, description="probability that a coordinate of a child mutates")
    spread: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="standard deviation of a mutation; that of the prior is 1"
    )
    bound: float = Field(
        2.5, gt=0, allow_inf_nan=False, description="latent coordinates are kept between -bound and bound"
    )
    generations: int = Field(100, ge=0, description="number of generations after the first")
    shared: Literal["pool"] | None = Field(
        None,
        description="pool: all attackers query the same pool, which counts as shared between their classes; absent: "
        "each draws its own",
    )
    enough: float | None = Field(
        None, gt=0, lt=1, description="confidence in the target at which the attack ends; absent: it does not end"
    )

    @model_validator(mode="after")
    def _pool_holds_a_generation(self) -> Genetic:
        if self.population > self.pool:
            raise ValueError(
                f"population = {self.population} is larger than pool = {self.pool}; accepted: at most pool"
            )
        return self

    @property
    def expected_queries(self) -> float | None:
        """Size of the pool plus the number of children in all generations."""
        return float(self.pool + self.generations * (self.population - 1))

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; returns the image of the highest confidence."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        space = fit_latent(world.pool, world.shape, self.space, self.size, generator=self.generator)
        best: Image | None = None
        highest = -math.inf
        elite: npt.NDArray[np.float64] = np.empty((0, space.size))
        elite_fitness: npt.NDArray[np.float64] = np.empty(0)
        source = space.shared_rng("genetic", self.pool) if self.shared else rng
        asked = np.clip(space.sample(source, self.pool), -self.bound, self.bound)
        for generation in range(self.generations + 1):
            fitness = np.empty(len(asked))
            for number, image in enumerate(space.images(asked)):
                reply = yield Query(image, guess=best, shared=generation == 0 and self.shared is not None)
                if isinstance(reply, Refusal):
                    return image if best is None else best
                fitness[number] = _fitness(reply, world.target)
                if fitness[number] > highest:
                    highest, best = float(fitness[number]), image
                if generation and self._is_enough(highest):
                    return best
            if self._is_enough(highest):
                return best
            alive, fitness = np.concatenate([elite, asked]), np.concatenate([elite_fitness, fitness])
            fittest = np.argsort(-fitness, kind="stable")[: self.population]
            elite, elite_fitness = alive[fittest[:1]], fitness[fittest[:1]]
            asked = self._children(alive[fittest], fitness[fittest], rng)
        return best

    def _is_enough(self, fitness: float) -> bool:
        return self.enough is not None and fitness >= math.log(self.enough)

    def _children(
        self, parents: npt.NDArray[np.float64], fitness: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> npt.NDArray[np.float64]:
        shares = np.exp(fitness - fitness.max())
        count, size = self.population - 1, parents.shape[1]
        mothers, fathers = rng.choice(len(parents), (2, count), p=shares / shares.sum())
        children = np.where(rng.random((count, size)) < 0.5, parents[mothers], parents[fathers])
        mutated = rng.random((count, size)) < self.mutation
        one = rng.integers(size, size=count)
        unchanged = np.flatnonzero(~mutated.any(axis=1))
        mutated[unchanged, one[unchanged]] = True
        children += mutated * rng.normal(0, self.spread, (count, size))
        # Reflected, not clipped: children clipped at the bound would be copies of one another.
        beyond = np.maximum(np.abs(children) - self.bound, 0)
        reflected: npt.NDArray[np.float64] = children - 2 * np.sign(children) * beyond
        return np.clip(reflected, -self.bound, self.bound)


def _fitness(answer: Answer, target: int) -> float:
    """Return the log confidence in the target; a withheld confidence counts as `LEAST_CONFIDENCE`."""
    confidence = math.nan if answer.confidence is None else float(answer.confidence[target])
    return math.log(LEAST_CONFIDENCE if math.isnan(confidence) else max(confidence, LEAST_CONFIDENCE))
