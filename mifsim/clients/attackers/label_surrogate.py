"""Label-only inversion by knowledge transfer: generated images and their labels train a surrogate, which is inverted.

Nguyen, Chandrasegaran, Abdollahzadeh and Cheung, "Label-Only Model Inversion Attacks via Knowledge Transfer" (LOKT),
NeurIPS 2023, Section 4; the number of labelled images is that of its published program.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim.clients.attackers.surrogate import distribution, fittest
from mifsim.clients.attackers.surrogate_attacker import SurrogateAttacker
from mifsim.clients.protocol import Answer, ClientGenerator, Image, Knowledge, Query, Refusal, World


class LabelSurrogate(SurrogateAttacker):
    r"""Query the labels of generated images, train a surrogate on them, and invert the surrogate without a query.

    ::

        shared: query the images of `images` · classes points of the prior; keep the labels
        train a surrogate on the labels
        return the image of its highest confidence in the target, from the fittest point of the target's label

    All queries are shared, independent of one another, and look like natural images: a detector of similar images
    cannot distinguish the attacker from an honest user. During the queries, the current reconstruction is the first
    image that has the target's label. At the end, or when refused, the attacker trains on all labels that it has. An
    attacker that has spent its budget cannot train: do not set `images` so high. Nothing is drawn at random that
    differs between attackers: one attacker for each class suffices.

    There are two differences from LOKT. Its generator is conditional (a target-assisted ACGAN, trained with 500 · 1,000
    labels for 1,000 people), so that every class gets equally many images; here the classes of the images are as the
    prior has them, and rare labels weigh more (`balance`). And it inverts an ensemble of three DenseNets by a white-box
    attack (PLG-MI or KED-MI); here an evolution strategy maximises the mean log confidence of small networks.
    """

    needs: ClassVar[Knowledge] = Knowledge.LABEL
    sends: ClassVar[str] = "samples of a latent prior, for all classes together"

    images: int = Field(500, ge=1, le=1_000_000, description="images that are queried, for each class of the model")
    turns: int = Field(200, ge=0, le=100_000, description="turns of the search of the surrogate, without queries")
    prior: float = Field(
        0.1,
        ge=0,
        le=1000,
        description="weight of the prior's log density, which is added to the surrogate's log confidence",
    )

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; returns the surrogate's image of that class."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        space, count = self.latent_space(world), self.images * world.classes
        z = self.points(space, "label-surrogate", count)
        labels: list[int] = []
        guess: Image | None = None
        for image in space.images(z):
            reply = yield Query(image, guess=guess, shared=True)
            if isinstance(reply, Refusal):
                guess = image if guess is None else guess
                break
            if guess is None or (reply.label == world.target and world.target not in labels):
                guess = image
            labels.append(reply.label)
        assert guess is not None
        if world.target not in labels:
            return guess
        asked = z[: len(labels)]
        answers = np.stack([distribution(Answer(label), world.classes) for label in labels])
        surrogate = self.train(space, asked, answers)
        of_target = asked[np.flatnonzero(np.array(labels) == world.target)]
        search = space.shared_rng("label-surrogate", count, world.target)
        start = fittest(space, surrogate, world.target, of_target)
        point = self.optimum(space, surrogate, world.target, start, search)
        found: Image = space.decode(point[None])[0]
        return found
