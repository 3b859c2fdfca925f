"""Example of an attack plug-in: SimBA, a search along cosine patterns. It needs one confidence of each answer::

    mifsim simulate examples/simba.toml --plugin examples/simba.py

Guo, Gardner, You, Wilson and Weinberger, "Simple Black-box Adversarial Attacks", ICML 2019, Algorithm 1, with the basis
of its Section 3.2. The paper changes an image of another class until the model is wrong. Here the search starts at the
mean auxiliary image, so that what it finds is an estimate of the target's images.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from mifsim import Attacker, register
from mifsim.clients import Knowledge, Query, Refusal


def cosine_patterns(shape, frequencies):
    """Return the orthonormal patterns of the discrete cosine transform, shape (patterns, *shape).

    They are the products of at most `frequencies` frequencies along each side of the image, in each channel.
    """
    height, width, channels = (*shape, 1)[:3]

    def cosines(length):
        row, frequency = np.arange(length), np.arange(min(frequencies, length))[:, None]
        waves = np.cos(np.pi * (row + 0.5) * frequency / length)
        return waves / np.linalg.norm(waves, axis=1, keepdims=True)

    products = np.einsum("fh,gw,cd->fgchwd", cosines(height), cosines(width), np.eye(channels))
    return products.reshape(-1, *shape)


def confidence(answer, target):
    """Return the confidence in the target; 0 if the server withholds it."""
    return 0.0 if answer.confidence is None else float(np.nan_to_num(answer.confidence[target]))


@register("attacks", "simba")
class SimBA(Attacker):
    """Add a step along one pattern, or subtract it, if this raises the model's confidence in the target."""

    needs: ClassVar = Knowledge.CONFIDENCE
    sends: ClassVar = "the best image so far, plus or minus one cosine pattern"

    step: float = Field(1.0, gt=0, le=100, description="Euclidean norm of a step, in units of a white pixel")
    frequencies: int = Field(8, ge=1, le=64, description="number of frequencies along each side of the image")

    def run(self, world, rng):
        """Start one attack on the class `world.target`; returns the image with the highest confidence."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        patterns = cosine_patterns(world.shape, self.frequencies)
        best = np.mean([world.pool.image(index) for index in range(len(world.pool))], axis=0, dtype=np.float64)
        best = best.astype(np.float32)
        reply = yield Query(best)
        if isinstance(reply, Refusal):
            return best
        highest = confidence(reply, world.target)
        while True:
            for number in rng.permutation(len(patterns)):
                for step in (self.step, -self.step):
                    changed = np.clip(best + step * patterns[number], 0, 1).astype(np.float32)
                    reply = yield Query(changed, guess=best)
                    if isinstance(reply, Refusal):
                        return best
                    if confidence(reply, world.target) > highest:
                        best, highest = changed, confidence(reply, world.target)
                        break
