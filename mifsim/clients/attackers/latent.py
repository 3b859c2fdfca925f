"""Latent spaces: a few coordinates that decode to plausible images, learned from auxiliary images only.

Attacks search such a space instead of single pixels. MIRROR, RLB-MI, BREP-MI, SMILE and LOKT search the latent space
of a GAN: here one that is trained on the auxiliary images, or a generator in an ONNX file. A principal-component basis
or a small autoencoder takes seconds instead of minutes. In every space, N(0, I) is the prior: the coordinates of the
last two are whitened, so that they have mean 0 and covariance I over the auxiliary images.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from mifsim.cache import digest
from mifsim.clients.attackers.generators import MOST_TRAINING_IMAGES, generator_file, trained_generator
from mifsim.clients.attackers.networks import Autoencoder
from mifsim.clients.protocol import Image, ImagePool

Images = npt.NDArray[np.float32]
"""A batch of images, shape (n, H, W) or (n, H, W, 3), float32 in [0, 1]."""
Latents = npt.NDArray[np.float64]
"""Points of a latent space, shape (n, size)."""
Kind = Literal["pca", "autoencoder", "gan"]

MOST_IMAGES = 2000
"""Maximum number of images to which a space is fitted, evenly spaced in a larger pool, as they are kept in memory;
a GAN is trained on more (`MOST_TRAINING_IMAGES`)."""
DECODED_AT_A_TIME = 256
"""Number of images that `LatentSpace.images` keeps in memory."""


@dataclass(frozen=True)
class LatentSpace:
    """A latent space, in which N(0, I) is a prior over images.

    Attributes
    ----------
    size : int
        Number of coordinates: as requested, or the number that the auxiliary images span if that is smaller.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    seed : int
        Seed that depends on the auxiliary images and the arguments of the fit only; see `shared_rng`.
    """

    size: int
    shape: tuple[int, ...]
    _decode: Callable[[Latents], npt.NDArray[np.floating]] = field(repr=False)
    _encode: Callable[[Images], Latents] | None = field(default=None, repr=False)
    seed: int = 0

    def decode(self, z: npt.ArrayLike) -> Images:
        """Return the images of some points.

        Parameters
        ----------
        z : array-like, shape (n, size)
            The points.

        Returns
        -------
        ndarray of float32, shape (n, H, W) or (n, H, W, 3)
            The images, clipped to [0, 1].
        """
        rows = np.asarray(z, np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.size:
            raise ValueError(f"latents have shape {rows.shape}; expected (n, {self.size})")
        images = self._decode(rows).astype(np.float32).reshape(-1, *self.shape)
        return np.clip(images, np.float32(0), np.float32(1))

    def encode(self, images: Images) -> Latents:
        """Return the points that represent some images, shape (n, size); a `ValueError` if the space is a GAN's."""
        if self._encode is None:
            raise ValueError("a generator has no encoder (accepted: a space of the kind pca or autoencoder)")
        return self._encode(np.asarray(images, np.float32))

    def images(self, z: npt.ArrayLike) -> Iterator[Image]:
        """Yield the images of points (n, size) one after the other, with few of them in memory."""
        for images in self.chunks(z):
            yield from images

    def chunks(self, z: npt.ArrayLike) -> Iterator[Images]:
        """Yield the images of points (n, size), `DECODED_AT_A_TIME` at a time."""
        rows = np.asarray(z, np.float64)
        for start in range(0, len(rows), DECODED_AT_A_TIME):
            yield self.decode(rows[start : start + DECODED_AT_A_TIME])

    def shared_rng(self, *facts: str | int | float) -> np.random.Generator:
        """Return a generator of random numbers that is the same for all attackers with this space and these facts."""
        return np.random.default_rng(_seed(self.seed, *facts))

    def sample(self, rng: np.random.Generator, n: int) -> Latents:
        """Draw n points from the prior, shape (n, size)."""
        return rng.standard_normal((n, self.size))


def fit_latent(
    pool: ImagePool, shape: tuple[int, ...], kind: Kind, size: int, seed: int = 0, generator: Path | None = None
) -> LatentSpace:
    """Return the latent space of a pool; a process fits it on first use and then caches it.

    The result depends only on the images and the arguments, not on earlier calls. On one machine, it is bit-identical
    in every process.

    Parameters
    ----------
    pool : ImagePool
        The attacker's auxiliary images.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    kind : {"pca", "autoencoder", "gan"}
        ``pca``: linear, fitted in milliseconds. ``autoencoder``: a small convolutional network, fitted in seconds, with
        sharper images. ``gan``: a generator, trained in minutes to hours and then cached in a file, whose images of
        random points look like the auxiliary ones.
    size : int
        Number of coordinates, at least 1.
    seed : int
        Together with the images, the seed of the networks' weights and batches.
    generator : Path, optional
        An ``.onnx`` file with the generator of the kind ``gan``, which is then not trained; it has a `size` of its own.

    Returns
    -------
    LatentSpace
        The space, with at most `size` coordinates.

    Raises
    ------
    ValueError
        If all images are identical.
    StudyError
        If the file of a generator cannot be used.
    """
    images = _PoolImages.of(pool, shape, MOST_TRAINING_IMAGES if kind == "gan" else MOST_IMAGES)
    key = (images.content, kind, size, seed)
    if generator is not None:
        made = generator_file(generator, shape)
        return LatentSpace(made.size, shape, made.decode, seed=_seed(*key, made.content))
    if key not in _fitted:
        _fitted[key] = {"pca": _pca, "autoencoder": _autoencoder, "gan": _gan}[kind](images.pixels, size, _seed(*key))
    return _fitted[key]


_fitted: dict[tuple[str, str, int, int], LatentSpace] = {}


def _seed(*facts: str | int | float) -> int:
    return int(digest(*facts), 16) % 2**31


@dataclass(frozen=True)
class _PoolImages:
    """Images of a pool, evenly spaced in it, and a digest of their content."""

    pool: weakref.ref[ImagePool]
    pixels: Images
    content: str

    @classmethod
    def of(cls, pool: ImagePool, shape: tuple[int, ...], most: int) -> _PoolImages:
        """Read at most `most` images of a pool; for each `most`, the last result is cached."""
        last = _last.get(most)
        if last is None or last.pool() is not pool or last.pixels.shape[1:] != shape:
            chosen = np.unique(np.linspace(0, len(pool) - 1, min(len(pool), most)).round().astype(int))
            pixels = np.stack([pool.image(int(index)) for index in chosen])
            last = cls(weakref.ref(pool), pixels, digest(list(pixels.shape), pixels.tobytes()))
            _last[most] = last
        return last


_last: dict[int, _PoolImages] = {}


def auxiliary_images(pool: ImagePool, shape: tuple[int, ...]) -> Images:
    """Return at most `MOST_IMAGES` images of a pool, shape (n, H, W) or (n, H, W, 3); do not write to the array."""
    return _PoolImages.of(pool, shape, MOST_IMAGES).pixels


@dataclass(frozen=True)
class Whitening:
    """An affine map that gives rows mean 0 and covariance I, along their principal axes.

    Attributes
    ----------
    mean : ndarray, shape (p,)
        Mean of the rows.
    axes : ndarray, shape (size, p)
        Orthonormal principal axes, in order of decreasing variance; the entry of largest magnitude in each is positive.
    deviations : ndarray, shape (size,)
        Standard deviations along the axes (n − 1 in the denominator).
    """

    mean: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    deviations: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, rows: npt.ArrayLike, most: int) -> Whitening:
        """Fit to rows (n, p), with at most `most` principal axes; axes of zero variance are omitted."""
        given = np.asarray(rows, np.float64)
        mean = given.mean(axis=0)
        centred = given - mean
        # The smaller of the two Gram matrices has the same nonzero eigenvalues as the larger.
        wide = centred.shape[0] < centred.shape[1]
        with one_thread():
            squares, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
            order = np.argsort(-squares, kind="stable")[:most]
            order = order[squares[order] > 1e-10 * max(squares.max(), 1e-30)]
            axes = vectors[:, order].T
            if wide:
                axes = axes @ centred / np.sqrt(squares[order])[:, None]
        if not len(axes):
            raise ValueError(f"{len(given)} auxiliary images, all identical: they span no latent space")
        # An eigenvector's sign is arbitrary.
        axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
        return cls(mean, axes, np.sqrt(squares[order] / (len(given) - 1)))

    def forth(self, rows: npt.ArrayLike) -> Latents:
        """Whiten rows (n, p); return shape (n, size)."""
        with one_thread():
            return np.asarray((np.asarray(rows, np.float64) - self.mean) @ self.axes.T / self.deviations)

    def back(self, z: Latents) -> npt.NDArray[np.float64]:
        """Invert `forth`: return rows (n, p) from whitened rows (n, size)."""
        with one_thread():
            return np.asarray(self.mean + (z * self.deviations) @ self.axes)


def _pca(images: Images, size: int, seed: int) -> LatentSpace:
    whitening = Whitening.fit(images.reshape(len(images), -1), size)

    def encode(given: Images) -> Latents:
        return whitening.forth(given.reshape(len(given), -1))

    return LatentSpace(len(whitening.axes), images.shape[1:], whitening.back, encode, seed)


def _autoencoder(images: Images, size: int, seed: int) -> LatentSpace:
    network = Autoencoder.fit(images, size, seed)
    whitening = Whitening.fit(network.encode(images), size)

    def decode(z: Latents) -> Images:
        return network.decode(whitening.back(z).astype(np.float32))

    def encode(given: Images) -> Latents:
        return whitening.forth(network.encode(given))

    return LatentSpace(len(whitening.axes), images.shape[1:], decode, encode, seed)


def _gan(images: Images, size: int, seed: int) -> LatentSpace:
    if (images == images[0]).all():
        raise ValueError(f"{len(images)} auxiliary images, all identical: they span no latent space")
    return LatentSpace(size, images.shape[1:], trained_generator(images, size, seed).decode, seed=seed)


def one_thread() -> AbstractContextManager[object]:
    """Limit numpy's linear algebra to one thread (context manager).

    The last bits of its results depend on the number of threads, which differs between Ray actors and other processes.
    """
    limited: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limited


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
