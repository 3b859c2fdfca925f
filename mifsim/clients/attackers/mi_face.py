"""MI-Face: gradient descent on an image until the model is confident in the target class.

Fredrikson, Jha and Ristenpart, "Model Inversion Attacks that Exploit Confidence Information and Basic
Countermeasures", CCS 2015, Algorithm 1; with the noise of Section 4.5 of the defence's paper.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from mifsim.clients.attackers.gradients import unit
from mifsim.clients.attackers.latent import auxiliary_images
from mifsim.clients.protocol import Answer, Attacker, ClientGenerator, Image, Knowledge, Query, Refusal, World


class MIFace(Attacker):
    r"""Descend c(x) = 1 − f_target(x) from a black image; white-box.

    ::

        x_0 = 0
        for i = 1 … α:
            x_i = Process(x_{i−1} − λ · ∇c(x_{i−1})), clipped to [0, 1]
            stop if the cost has not improved for β steps, or c(x_i) ≤ γ
        return the x_i of least cost

    A step takes one query. The answer to x_i contains its cost and its gradient, because the attacker can compute the
    gradient from the model's weights without another query. α steps send α + 1 images, including x_0. The gradient is
    that of the confidence itself, not of its logarithm. If the model assigns a black image to another class with almost
    full confidence, the gradient vanishes, and the attack stalls until noise changes the image.

    The gradient also vanishes when the confidence in the target is almost 1: a step λ · ∇c then changes nothing, and
    another classifier does not recognise the result. With ``steps = "unit"``, a step has length λ whatever the length
    of the gradient. With ``start = "mean"``, the attack starts from the mean of its auxiliary images. With both, it
    works on digits (see `mifsim attacks --measure`). The defaults are the paper's.

    Algorithm 1 stops when c(x_i) is no less than the *largest* of the last β costs, which ends nearly every noisy
    descent at the same place. This implementation instead follows the paper's text, "fails to improve".
    """

    needs: ClassVar[Knowledge] = Knowledge.CONFIDENCE
    white_box: ClassVar[bool] = True
    sends: ClassVar[str] = "iterates, each a small step from the last"

    start: Literal["black", "mean"] = Field(
        "black", description="x_0: a black image (the paper), or the mean auxiliary image"
    )
    steps: Literal["gradient", "unit"] = Field(
        "gradient", description="vector that λ multiplies: the gradient (the paper), or its direction (unit length)"
    )
    step: float = Field(
        0.1, gt=0, allow_inf_nan=False, description="factor of the vector chosen by `steps`: the paper's λ"
    )
    alpha: int = Field(5000, ge=1, description="maximum number of steps: the paper's α")
    beta: int = Field(
        100, ge=0, description="steps without an improvement after which the attack stops: the paper's β; 0: never"
    )
    gamma: float = Field(
        0.01, ge=0, lt=1, description="cost (1 − confidence) at which the attack stops: the paper's γ; 0: never"
    )
    process: Literal["identity", "denoise-sharpen"] = Field(
        "identity", description="processing of the image after each step: the paper's Process"
    )
    noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="standard deviation of the Gaussian noise added before each query (pixels: 0 to 1)",
    )
    noise_on: Literal["iterate", "copy"] = Field(
        "iterate",
        description="whether the next step starts from the image with the noise (iterate) or without it (copy)",
    )

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; returns the answered image of least cost."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        x = self._start(world)
        best, least, steps_since = x, math.inf, 0
        for _ in range(self.alpha + 1):
            sent = self._with_noise(x, rng)
            if self.noise_on == "iterate":
                x = sent
            reply = yield Query(sent, guess=best, gradient_of=world.target)
            if isinstance(reply, Refusal):
                break
            cost = _cost(reply, world.target)
            if cost < least:
                best, least, steps_since = x, cost, 0
            else:
                steps_since += 1
            # 0 disables a rule: in float32, the cost at full confidence is exactly 0.
            if (self.gamma and cost <= self.gamma) or (self.beta and steps_since >= self.beta):
                break
            x = self._processed(x + np.float32(self.step) * self._direction(reply))  # −∇c = ∇f
        return best

    def _start(self, world: World) -> Image:
        if self.start == "black":
            return np.zeros(world.shape, np.float32)
        mean: Image = auxiliary_images(world.pool, world.shape).mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def _direction(self, answer: Answer) -> Image:
        gradient = _gradient(answer)
        return gradient if self.steps == "gradient" else unit(gradient.astype(np.float64)).astype(np.float32)

    def _with_noise(self, x: Image, rng: np.random.Generator) -> Image:
        if not self.noise:
            return x
        noise = rng.standard_normal(x.shape, np.float32)
        return np.clip(x + np.float32(self.noise) * noise, np.float32(0), np.float32(1))

    def _processed(self, x: Image) -> Image:
        if self.process == "denoise-sharpen":
            x = _denoise_sharpen(x)
        return np.clip(x, np.float32(0), np.float32(1))


def _cost(answer: Answer, target: int) -> float:
    """Return 1 − f_target(x); a withheld confidence counts as 0."""
    confidence = math.nan if answer.confidence is None else float(answer.confidence[target])
    return 1.0 if math.isnan(confidence) else 1.0 - confidence


def _gradient(answer: Answer) -> Image:
    if answer.gradient is None:
        raise ValueError("MI-Face is white-box: the answer must contain the gradient that the query requested")
    return answer.gradient


def _denoise_sharpen(x: Image) -> Image:
    """Blur an image, then add what a second blur removes (unsharp masking).

    At a frequency where the Gaussian has gain G, the result has gain 1 − (1 − G)², which is never above 1. Stronger
    sharpening at every step would amplify the image without bound.
    """
    import cv2

    def blur(image: Image) -> Image:
        blurred: Image = cv2.GaussianBlur(image, (3, 3), 0.7, borderType=cv2.BORDER_REFLECT)
        return blurred

    smooth = blur(x)
    return smooth + (smooth - blur(smooth))
