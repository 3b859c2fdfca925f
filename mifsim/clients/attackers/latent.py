"""Latent spaces: a few coordinates that decode to plausible images, learned from auxiliary images only.

Attacks search such a space instead of single pixels. (MIRROR, RLB-MI and BREP-MI search the latent space of a GAN; a
principal-component basis or a small autoencoder needs no GAN.) Coordinates are whitened: over the auxiliary images,
they have mean 0 and covariance I, so that N(0, I) is the prior.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from mifsim.cache import digest
from mifsim.clients.attackers.networks import Autoencoder
from mifsim.clients.protocol import ImagePool

Images = npt.NDArray[np.float32]
"""A batch of images, shape (n, H, W) or (n, H, W, 3), float32 in [0, 1]."""
Latents = npt.NDArray[np.float64]
"""Points of a latent space, shape (n, size)."""
Kind = Literal["pca", "autoencoder"]

MOST_IMAGES = 2000
"""Maximum number of images to which a space is fitted, evenly spaced in a larger pool, as they are kept in memory."""


@dataclass(frozen=True)
class LatentSpace:
    """A latent space, in which N(0, I) is a prior over images.

    Attributes
    ----------
    size : int
        Number of coordinates: as requested, or the number that the auxiliary images span if that is smaller.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    """

    size: int
    shape: tuple[int, ...]
    _decode: Callable[[Latents], npt.NDArray[np.floating]] = field(repr=False)
    _encode: Callable[[Images], Latents] = field(repr=False)

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
        """Return the points that represent some images, shape (n, size)."""
        return self._encode(np.asarray(images, np.float32))

    def sample(self, rng: np.random.Generator, n: int) -> Latents:
        """Draw n points from the prior, shape (n, size)."""
        return rng.standard_normal((n, self.size))


def fit_latent(pool: ImagePool, shape: tuple[int, ...], kind: Kind, size: int, seed: int = 0) -> LatentSpace:
    """Return the latent space of a pool; a process fits it on first use and then caches it.

    The result depends only on the images and the arguments, not on earlier calls. On one machine, it is bit-identical
    in every process.

    Parameters
    ----------
    pool : ImagePool
        The attacker's auxiliary images.
    shape : tuple of int
        Shape of one image: (H, W) or (H, W, 3).
    kind : {"pca", "autoencoder"}
        ``pca``: linear, fitted in milliseconds. ``autoencoder``: a small convolutional network, fitted in seconds, with
        sharper images.
    size : int
        Number of coordinates, at least 1.
    seed : int
        Together with the images, the seed of the autoencoder's weights and batches.

    Returns
    -------
    LatentSpace
        The space, with at most `size` coordinates.

    Raises
    ------
    ValueError
        If all images are identical.
    """
    images = _PoolImages.of(pool, shape)
    key = (images.content, kind, size, seed)
    if key not in _fitted:
        _fitted[key] = {"pca": _pca, "autoencoder": _autoencoder}[kind](images.pixels, size, _seed(*key))
    return _fitted[key]


_fitted: dict[tuple[str, str, int, int], LatentSpace] = {}


def _seed(*facts: str | int) -> int:
    return int(digest(*facts), 16) % 2**31


@dataclass(frozen=True)
class _PoolImages:
    """At most `MOST_IMAGES` images of a pool, and a digest of their content."""

    pool: weakref.ref[ImagePool]
    pixels: Images
    content: str

    @classmethod
    def of(cls, pool: ImagePool, shape: tuple[int, ...]) -> _PoolImages:
        """Read a pool; the last one is cached."""
        global _last
        if _last is None or _last.pool() is not pool or _last.pixels.shape[1:] != shape:
            chosen = np.unique(np.linspace(0, len(pool) - 1, min(len(pool), MOST_IMAGES)).round().astype(int))
            pixels = np.stack([pool.image(int(index)) for index in chosen])
            _last = cls(weakref.ref(pool), pixels, digest(list(pixels.shape), pixels.tobytes()))
        return _last


_last: _PoolImages | None = None


def auxiliary_images(pool: ImagePool, shape: tuple[int, ...]) -> Images:
    """Return at most `MOST_IMAGES` images of a pool, shape (n, H, W) or (n, H, W, 3); do not write to the array."""
    return _PoolImages.of(pool, shape).pixels


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

    return LatentSpace(len(whitening.axes), images.shape[1:], whitening.back, encode)


def _autoencoder(images: Images, size: int, seed: int) -> LatentSpace:
    network = Autoencoder.fit(images, size, seed)
    whitening = Whitening.fit(network.encode(images), size)

    def decode(z: Latents) -> Images:
        return network.decode(whitening.back(z).astype(np.float32))

    def encode(given: Images) -> Latents:
        return whitening.forth(network.encode(given))

    return LatentSpace(len(whitening.axes), images.shape[1:], decode, encode)


def one_thread() -> AbstractContextManager[object]:
    """Limit numpy's linear algebra to one thread (context manager).

    The last bits of its results depend on the number of threads, which differs between Ray actors and other processes.
    """
    limited: AbstractContextManager[object] = _controller().limit(limits=1, user_api="blas")
    return limited


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
