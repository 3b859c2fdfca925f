"""Search spaces: the coordinates of an attack's steps, from single pixels to a learned latent space.

A search starts at the centre of the auxiliary images, and coordinates are measured in standard deviations of these
images, so that step lengths, widths of finite differences and weights of the prior are comparable between spaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from mifsim.clients.attackers.bases import Rows, block_basis, dct_basis
from mifsim.clients.attackers.latent import LatentSpace, auxiliary_images, fit_latent
from mifsim.clients.protocol import Attacker, Image, ImagePool

Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.float32]

LATENT_COORDINATES = 20
"""Default number of coordinates of a latent space."""
SpaceName = Literal["dct", "block", "pixel", "pca", "autoencoder", "gan"]
SPACE_HELP = "coordinates of a step: DCT or block patterns, single pixels, or a latent space of the auxiliary images"
COORDINATES_HELP = (
    "maximum number of coordinates; auto: 64 per channel (dct, block) or 20 (pca, autoencoder, gan); pixel: always all"
)


class SpaceAttacker(Attacker):
    """An attacker that searches a space, which can be the latent space of a generator.

    A subclass restricts `space` to the names that it accepts, and has the number of coordinates in a field ``size`` or
    ``coordinates``.
    """

    space: str = Field(description=SPACE_HELP)
    generator: Path | None = Field(
        None,
        description="an .onnx file with the generator for space = gan, which is otherwise trained on the auxiliary "
        "images; it has its own number of coordinates",
    )

    @field_validator("generator")
    @classmethod
    def _is_onnx(cls, file: Path | None) -> Path | None:
        if file is not None and file.suffix != ".onnx":
            raise ValueError(f"{file}: not an .onnx file (accepted: a generator that maps points of N(0, I) to images)")
        return file

    @model_validator(mode="after")
    def _generator_is_used(self) -> Self:
        if self.generator is not None and self.space != "gan":
            raise ValueError(f'generator = {self.generator}: has no effect with space = "{self.space}" (accepted: gan)')
        return self

    def prepare(self, pool: ImagePool, shape: tuple[int, ...]) -> None:
        """Train the generator, or check its file."""
        if self.space == "gan":
            given: int | Literal["auto"] = getattr(self, "coordinates", getattr(self, "size", None)) or "auto"
            fit_latent(pool, shape, "gan", _coordinates(given), generator=self.generator)


def _coordinates(given: int | Literal["auto"]) -> int:
    return LATENT_COORDINATES if given == "auto" else given


def settled(given: float | Literal["auto"], space: SpaceName, usual: float, pixel: float) -> float:
    """Return the given value or, for ``"auto"``, the default: `pixel` in pixel space, `usual` in other spaces.

    In pixel space, moves and sums over the coordinates have another scale than with a few broad patterns.
    """
    if given != "auto":
        return given
    return pixel if space == "pixel" else usual


class SearchSpace(Protocol):
    """Points that represent images, and moves along coordinates."""

    @property
    def size(self) -> int:
        """Number of coordinates of a move."""

    @property
    def start(self) -> Floats:
        """The starting point of a search, shape (d,), which represents the most probable image."""

    def moved(self, point: Floats, by: Floats) -> Floats:
        """Return the points (n, d) reached from one point (d,) by the moves `by` (n, size), in standard deviations."""

    def images(self, points: Floats) -> Images:
        """Return the images (n, H, W) or (n, H, W, 3) that points (n, d) represent."""

    def log_prior(self, points: Floats) -> Floats:
        """Return −|z|²/2 for points (n, d), shape (n,): the log density of N(0, I), up to a constant."""


def search_space(
    name: SpaceName,
    pool: ImagePool,
    shape: tuple[int, ...],
    coordinates: int | Literal["auto"],
    generator: Path | None = None,
) -> SearchSpace:
    """Return a search space over images of one shape.

    Parameters
    ----------
    name : {"dct", "block", "pixel", "pca", "autoencoder", "gan"}
        The coordinates; see `SPACE_HELP`.
    pool : ImagePool
        The attacker's auxiliary images.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    coordinates : int or "auto"
        Maximum number of coordinates; see `COORDINATES_HELP`.
    generator : Path, optional
        File with the generator of the space ``"gan"``; see `fit_latent`.

    Returns
    -------
    SearchSpace
        The space, fitted to the auxiliary images.
    """
    if name in ("pca", "autoencoder", "gan"):
        return LatentSearch(fit_latent(pool, shape, name, _coordinates(coordinates), generator=generator))
    channels = 1 if len(shape) == 2 else shape[2]
    most = 64 * channels if coordinates == "auto" else coordinates
    rows = {"dct": dct_basis, "block": block_basis}[name](shape, most) if name != "pixel" else None
    return PixelSearch.around(auxiliary_images(pool, shape), rows)


def image_of(space: SearchSpace, point: Floats) -> Image:
    """Return the image of one point (d,)."""
    image: Image = space.images(point[None])[0]
    return image


@dataclass(frozen=True)
class LatentSearch:
    """A search in a latent space; points are latent coordinates, which are not clipped."""

    latent: LatentSpace

    @property
    def size(self) -> int:
        """Number of latent coordinates."""
        return self.latent.size

    @property
    def start(self) -> Floats:
        """The origin."""
        return np.zeros(self.size)

    def moved(self, point: Floats, by: Floats) -> Floats:
        """See `SearchSpace.moved`."""
        return point + by

    def images(self, points: Floats) -> Images:
        """See `SearchSpace.images`."""
        return self.latent.decode(points)

    def log_prior(self, points: Floats) -> Floats:
        """See `SearchSpace.log_prior`."""
        return np.asarray(-0.5 * (points**2).sum(axis=1))


@dataclass(frozen=True)
class PixelSearch:
    """A search over images along the rows of an orthonormal basis; points are pixel values, clipped to [0, 1].

    Attributes
    ----------
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    mean : ndarray, shape (pixels,)
        Mean of the auxiliary images, at which a search starts.
    deviation : float
        Root mean square of the auxiliary images' standard deviations along the rows: the unit of a move.
    rows : ndarray, shape (size, pixels), or None
        The basis; None: every pixel is a coordinate.
    """

    shape: tuple[int, ...]
    mean: Floats
    deviation: float
    rows: Rows | None

    @classmethod
    def around(cls, images: Images, rows: Rows | None) -> PixelSearch:
        """Return the space around some images, shape (n, H, W) or (n, H, W, 3)."""
        pixels = images.reshape(len(images), -1).astype(np.float64)
        mean = pixels.mean(axis=0)
        along = pixels - mean if rows is None else (pixels - mean) @ rows.T
        deviation = float(np.sqrt((along**2).mean()))
        if not deviation:
            raise ValueError(f"{len(images)} auxiliary images, all identical: their standard deviation is 0")
        return cls(images.shape[1:], mean, deviation, rows)

    @property
    def size(self) -> int:
        """Number of rows of the basis, or of pixels."""
        return len(self.mean) if self.rows is None else len(self.rows)

    @property
    def start(self) -> Floats:
        """The mean auxiliary image."""
        return self.mean

    def moved(self, point: Floats, by: Floats) -> Floats:
        """See `SearchSpace.moved`."""
        change = self.deviation * (by if self.rows is None else by @ self.rows)
        return np.clip(point + change, 0, 1)

    def images(self, points: Floats) -> Images:
        """See `SearchSpace.images`."""
        return points.astype(np.float32).reshape(-1, *self.shape)

    def log_prior(self, points: Floats) -> Floats:
        """See `SearchSpace.log_prior`."""
        away = points - self.mean
        along = away if self.rows is None else away @ self.rows.T
        return np.asarray(-0.5 * (along**2).sum(axis=1) / self.deviation**2)
