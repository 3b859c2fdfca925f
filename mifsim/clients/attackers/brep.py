"""BREP-MI: label-only inversion that moves away from the decision boundary of the target class.

Kahla, Chen, Just and Jia, "Label-Only Model Inversion Attacks via Boundary Repulsion", CVPR 2022, Algorithm 1. The
latent space is that of a GAN, as in the paper, of an autoencoder or of principal components.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mifsim.clients.attackers.latent import fit_latent
from mifsim.clients.attackers.spaces import SpaceAttacker
from mifsim.clients.protocol import Answer, ClientGenerator, Image, Knowledge, Query, Refusal, World

Point = npt.NDArray[np.float64]


class BREP(SpaceAttacker):
    r"""Find a point of the target class, then move it so that larger and larger spheres around it are of that class.

    ::

        draw z from the prior until the label of G(z) is the target's
        repeat:
            u_1 … u_N uniform on the unit sphere; Φ_i = +1 if G(z + R u_i) is of the class, otherwise −1
            if the mean of Φ is above `inside`: R ← growth · R
            if any Φ_i is −1: z' = z − min(R/3, 3) · (mean of u_i over Φ_i = −1), and z ← z' if G(z') is of the class
        return G(z)

    The mean direction is short if there are points outside the class on all sides, so steps get shorter towards the
    middle of the class. An iteration takes N + 1 queries: the points of the sphere, one after another, and the new
    centre. If all points are of the class, the centre does not move and is not queried. The model assigns every centre
    to the class.

    The authors' program ends after 1,000 iterations at one radius (`iterations`): with 33 queries each, these are at
    least 33,000 queries. It does not count iterations whose step is refused, and may therefore take more; here every
    iteration counts. Without the limit, the attack continues until its budget is spent.

    In pixel space, the points of a random sphere are the centre with noise added, and a step is a mean of noise: with
    few points, it degrades the initial image. This space serves as a comparison.
    """

    needs: ClassVar[Knowledge] = Knowledge.LABEL
    sends: ClassVar[str] = "points on a sphere around a latent centre, then the centre"

    space: Literal["pca", "autoencoder", "gan", "pixel"] = Field(
        "pca",
        description="search space: a latent space of the auxiliary images, or the pixels, starting from one of those "
        "images",
    )
    size: int = Field(20, ge=1, le=1024, description="coordinates of the latent space")
    points: Literal["auto"] | Annotated[int, Field(ge=2, le=4096)] = Field(
        "auto", description="points on each sphere: the paper's N; auto: 32 as in the paper, or 64 in pixel space"
    )
    radius: float = Field(2.0, gt=0, allow_inf_nan=False, description="radius of the first sphere: the paper's R_0")
    growth: float = Field(1.3, gt=1, le=10, description="factor by which the radius grows: the paper's γ")
    inside: float = Field(
        0.75,
        ge=-1,
        lt=1,
        description="mean over the points (+1: of the target class, -1: not) above which the radius grows",
    )
    step: float = Field(
        3.0,
        gt=0,
        allow_inf_nan=False,
        description="length of a step as a multiple of the mean direction; a third of the radius if that is less",
    )
    bound: float = Field(
        3.0, gt=0, allow_inf_nan=False, description="latent coordinates are kept between -bound and bound"
    )
    iterations: int | None = Field(
        None,
        ge=1,
        description="number of iterations at one radius after which the attack ends, 1000 in the authors' program; "
        "absent: it does not end",
    )

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        """Start one attack on the class ``world.target``; returns the image of the last centre."""
        if world.target is None:
            raise ValueError("an attacker needs a class to attack: world.target is None")
        space = self._search_space(world)
        while True:
            z = space.draw(rng)
            reconstruction = space.image(z)
            reply = yield Query(reconstruction)
            if isinstance(reply, Refusal):
                return reconstruction
            if reply.label == world.target:
                break
        radius = self.radius
        points = self.points if self.points != "auto" else 64 if self.space == "pixel" else 32
        at_radius = 0
        while self.iterations is None or at_radius < self.iterations:
            at_radius += 1
            away = rng.standard_normal((points, len(z)))
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            outside = yield from _outside(space.images(z + radius * away), reconstruction, world.target)
            if outside is None:
                return reconstruction
            if 1 - 2 * outside.mean() > self.inside:
                radius, at_radius = radius * self.growth, 0
            if not outside.any():
                continue
            moved = space.kept(z - min(radius / 3, self.step) * away[outside].mean(axis=0))
            image = space.image(moved)
            reply = yield Query(image, guess=reconstruction)
            if isinstance(reply, Refusal):
                return reconstruction
            if reply.label == world.target:
                z, reconstruction = moved, image
        return reconstruction

    def _search_space(self, world: World) -> _Space:
        if self.space == "pixel":

            def draw(rng: np.random.Generator) -> Point:
                return world.pool.image(int(rng.integers(len(world.pool)))).ravel().astype(np.float64)

            def decode(z: Point) -> npt.NDArray[np.float32]:
                return z.astype(np.float32).reshape(-1, *world.shape)

            return _Space(draw, decode, 0.0, 1.0)
        space = fit_latent(world.pool, world.shape, self.space, self.size, generator=self.generator)
        return _Space(lambda rng: space.sample(rng, 1)[0], space.decode, -self.bound, self.bound)


@dataclass(frozen=True)
class _Space:
    """A search space: its prior, its decoder and its bounds."""

    draw: Callable[[np.random.Generator], Point]
    decode: Callable[[Point], npt.NDArray[np.float32]]
    least: float
    most: float

    def kept(self, z: Point) -> Point:
        return np.clip(z, self.least, self.most)

    def images(self, z: Point) -> npt.NDArray[np.float32]:
        return self.decode(self.kept(z))

    def image(self, z: Point) -> Image:
        image: Image = self.images(z[None])[0]
        return image


def _outside(
    images: npt.NDArray[np.float32], reconstruction: Image, target: int
) -> Generator[Query, Answer | Refusal, npt.NDArray[np.bool_] | None]:
    """Query each image; return which images are not of the target class, or None if a query was refused."""
    outside = np.zeros(len(images), bool)
    for number, image in enumerate(images):
        reply = yield Query(image, guess=reconstruction)
        if isinstance(reply, Refusal):
            return None
        outside[number] = reply.label != target
    return outside
