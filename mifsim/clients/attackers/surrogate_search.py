"""Surrogate-based inversion: a shared pool trains a surrogate, and a black-box optimiser starts from its optimum.

Li, Zhang, Wang, Chen, Hu, Yi, Xu, Yang and Ma, "From Head to Tail: Efficient Black-box Model Inversion Attack via
Long-tailed Learning" (SMILE), CVPR 2025; the numbers are those of its published program.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.attackers.cma import SeparableCMAES
from mifsim.clients.attackers.scores import score
from mifsim.clients.attackers.surrogate import distribution
from mifsim.clients.attackers.surrogate_attacker import SurrogateAttacker
from mifsim.clients.protocol import Answer, ClientGenerator, Image, Knowledge, Query, Refusal, World


class SurrogateSearch(SurrogateAttacker):
    r"""Train a surrogate on the answers to a shared pool, maximise it, and continue with the model itself.

    ::

        shared: query the images of `pool` points of the prior
        train a surrogate on the answers, in which rare labels weigh more (long-tailed learning)
        maximise the surrogate's confidence in the target, from the fittest point of the pool      (no query)
        `queries` times: query a point that a black-box optimiser of the model's log-odds proposes
        return the image of the highest log-odds of all

    The pool depends on the auxiliary images and the arguments only, so that it is the same for all classes and
    attackers, and counts as shared.

    The optimiser uses the order of the scores only. That of the log-odds is that of the log confidence, which SMILE
    maximises, but it also tells apart confidences that are rounded to 1.

    There are three differences from SMILE, which attacks faces in the space of a StyleGAN. Its surrogate is a face
    recogniser of another data set with three fine-tuned experts and a term for their diversity; here, `networks` small
    networks are trained from scratch by the cross entropy with the answers. It maximises the surrogate by 200 steps
    along its gradient; here, an evolution strategy does. And NGOpt chooses its optimiser from a collection; here, it is
    a separable CMA-ES, one member of this collection.

    If a query of the pool is refused, the attack returns the best image so far.
    """

    needs: ClassVar[Knowledge] = Knowledge.CONFIDENCE
    sends: ClassVar[str] = "samples of a latent prior, then points around the optimum of a surrogate"

    pool: int = Field(2500, ge=2, le=1_000_000, description="points of the prior that are queried, for all classes")
    queries: int = Field(1000, ge=1, le=1_000_000, description="queries for one class, after the pool")

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; returns the image of the highest log-odds."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        space = self.latent_space(world)
        z = self.points(space, "surrogate-search", self.pool)
        answers = np.empty((self.pool, world.classes), np.float32)
        best: Image | None = None
        highest, fittest = -math.inf, 0
        for number, image in enumerate(space.images(z)):
            reply = yield Query(image, guess=best, shared=True)
            if isinstance(reply, Refusal):
                return image if best is None else best
            answers[number] = distribution(reply, world.classes)
            value = self._value(reply, world.target)
            if best is None or value > highest:
                highest, best, fittest = value, image, number
        point = self.optimum(space, self.train(space, z, answers), world.target, z[fittest], rng)
        search = SeparableCMAES(point, self.sigma, rng)
        asked, spent = point[None], 0
        while spent < self.queries:
            values = []
            for image in space.images(asked[: self.queries - spent]):
                reply = yield Query(image, guess=best)
                if isinstance(reply, Refusal):
                    return best
                values.append(self._value(reply, world.target))
                if values[-1] > highest:
                    highest, best = values[-1], image
            if spent:  # the first point is the surrogate's optimum itself
                search.tell(np.pad(values, (0, len(asked) - len(values)), constant_values=-np.inf))
            spent += len(values)
            asked = np.clip(search.ask(), -self.bound, self.bound)
        return best

    @staticmethod
    def _value(answer: Answer, target: int) -> float:
        """Return the score of an answer; of one without the target's confidence, 0 for its label and less otherwise."""
        value = score(answer, target, "log-odds")
        if math.isnan(value):
            return 0.0 if answer.label == target else -math.inf
        return value
