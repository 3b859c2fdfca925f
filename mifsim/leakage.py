"""Snapshots of an attacker's reconstructions, and the leakage scores computed from them after the run.

An evaluator's accuracy alone overestimates leakage, because a classifier also accepts images that resemble nothing.
Each reconstruction is therefore scored by an evaluator whose architecture differs from the victim's, and by its
distance to the nearest private image of its class.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mifsim.data.base import ImagePool
from mifsim.pixel_similarity import Planes, nearest_distance

Images = npt.NDArray[np.float32]
"""A batch of images, shape (n, H, W) or (n, H, W, 3), float32 in [0, 1]."""

PSNR_CEILING_DB = 120.0
"""The score of equal images, in dB; higher scores would be determined by rounding errors."""

_BLOCK = 2**21
"""Float64 values in one block (16 MiB) of private images."""


def snapshot_grid(limit: int, per_decade: int = 4) -> tuple[int, ...]:
    """Return the numbers of answered queries at which a reconstruction is kept, evenly spaced on a log scale.

    Parameters
    ----------
    limit : int
        The largest number allowed; at least 1.
    per_decade : int
        Numbers between 10^k and 10^(k+1); numbers that become equal by rounding are listed once.

    Returns
    -------
    tuple of int
        In increasing order, starting with 1.

    Examples
    --------
    >>> snapshot_grid(100)
    (1, 2, 3, 6, 10, 18, 32, 56, 100)
    """
    steps = int(per_decade * math.log10(limit) + 1e-9) + 1
    rounded = {round(10 ** (step / per_decade)) for step in range(steps)}
    return tuple(sorted(number for number in rounded if number <= limit))


class Snapshots:
    """The reconstructions of one session: those on a grid, and the most recent one.

    The most recent one is kept as an array, the others as PNG. Memory grows with the logarithm of the number of
    queries.

    Parameters
    ----------
    grid : collection of int
        Numbers of answered queries at which a reconstruction is kept; see `snapshot_grid`.

    Examples
    --------
    >>> kept = Snapshots(snapshot_grid(100))
    >>> for answered in range(8):
    ...     kept.keep(answered, np.zeros((28, 28), np.float32))
    >>> [(query, last) for query, last, png in kept.as_png()]
    [(1, False), (2, False), (3, False), (6, False), (7, True)]
    """

    __slots__ = ("_grid", "_kept", "_recent")

    def __init__(self, grid: Collection[int]) -> None:
        self._grid = grid
        self._kept: dict[int, bytes] = {}
        self._recent: tuple[int, npt.NDArray[np.float32]] | None = None

    def keep(self, answered: int, guess: npt.NDArray[np.float32]) -> None:
        """Keep the attacker's current reconstruction.

        A query contains the reconstruction at the time when it is sent. The reconstruction after answer q is therefore
        that of query q + 1, even if that query is refused, or the one that the client returns.

        Parameters
        ----------
        answered : int
            Number of answers received so far, at least 0; must not decrease between calls.
        guess : ndarray of shape (H, W) or (H, W, 3), float32 in [0, 1]
            The reconstruction. It must not be modified afterwards.
        """
        if answered in self._grid:
            self._kept[answered] = png_file(guess)
        self._recent = answered, guess

    def as_png(self) -> Iterator[tuple[int, bool, bytes]]:
        """Yield (number of answered queries, whether it is the most recent, 8-bit PNG) in increasing order."""
        if self._recent is None:
            return
        last, guess = self._recent
        yield from ((answered, False, png) for answered, png in self._kept.items() if answered != last)
        yield last, True, png_file(guess)


def png_file(image: npt.NDArray[np.float32]) -> bytes:
    """Return an image, (H, W) or (H, W, 3) in [0, 1], as an 8-bit PNG file."""
    import cv2

    pixels = np.rint(image * np.float32(255)).astype(np.uint8)
    done, encoded = cv2.imencode(".png", pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert done, f"OpenCV could not encode an image of shape {image.shape}"
    return bytes(encoded)


class Evaluator(Protocol):
    """A classifier with another architecture than the victim's, trained on the victim's and additional images."""

    def measure(self, images: Images) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]:
        """Return the confidence in each class, in [0, 1], and the activations before the last layer.

        Their shapes are (n, classes) and (n, features).
        """


class ImageReader(Protocol):
    """A collection of images that can be read by index, such as an `ImagePool`."""

    def images(self, indices: npt.ArrayLike) -> Images:
        """Return the images at `indices`, shape (m, H, W) or (m, H, W, 3)."""


@dataclass(frozen=True)
class Scores:
    """Leakage scores of m reconstructions; all arrays have shape (m,).

    Attributes
    ----------
    evaluator_confidence : ndarray of float64
        The evaluator's confidence in the target class, 0 to 1.
    evaluator_hit : ndarray of bool
        Whether the evaluator classifies the reconstruction as the target class.
    evaluator_rank : ndarray of int64
        Rank of the target class in the evaluator's answer, from 1; classes with the same confidence rank before it.
    feature_distance : ndarray of float64
        Euclidean distance in the evaluator's feature space to the nearest private image of the target class.
    nearest_class : ndarray of int64
        Class of the nearest private image of all classes, by the same distance.
    ssim_nearest : ndarray of float64
        The largest global SSIM (Eq. (1) of the paper, mean over channels) to a private image of the class.
    psnr_nearest_db : ndarray of float64
        The largest peak signal-to-noise ratio to a private image of the class, in dB, at most
        `PSNR_CEILING_DB`. The image may differ from that of `ssim_nearest`.
    features : ndarray of float64, shape (m, features)
        The evaluator's features of the reconstructions.
    """

    evaluator_confidence: npt.NDArray[np.float64]
    evaluator_hit: npt.NDArray[np.bool_]
    evaluator_rank: npt.NDArray[np.int64]
    feature_distance: npt.NDArray[np.float64]
    nearest_class: npt.NDArray[np.int64]
    ssim_nearest: npt.NDArray[np.float64]
    psnr_nearest_db: npt.NDArray[np.float64]
    features: npt.NDArray[np.float64]

    def rows(self, chosen: npt.NDArray[np.int64]) -> Scores:
        """Return the scores of some of the reconstructions."""
        return Scores(*(getattr(self, field.name)[chosen] for field in fields(self)))


class LeakageScorer:
    """Scores reconstructions by an evaluator and by the private images of their target class.

    Each call of `score` reads the private images of every target class once, in blocks: pass many reconstructions per
    call. The features of the private images are kept in memory.

    Parameters
    ----------
    evaluator : Evaluator
        The evaluator of the data set.
    private_images : ImageReader
        The victim's training images.
    private_labels : ndarray of int64, shape (n,)
        The classes of the private images.
    """

    def __init__(
        self, evaluator: Evaluator, private_images: ImageReader, private_labels: npt.NDArray[np.int64]
    ) -> None:
        self._evaluator = evaluator
        self._private = private_images
        self._labels = np.asarray(private_labels)
        self._classes = np.unique(self._labels).astype(np.int64)
        self._features: dict[int, npt.NDArray[np.float64]] = {}

    def score(self, guesses: Images, targets: npt.NDArray[np.int64]) -> Scores:
        """Return the scores of reconstructions.

        Parameters
        ----------
        guesses : ndarray of shape (m, H, W) or (m, H, W, 3), float32 in [0, 1]
            The reconstructions.
        targets : ndarray of int64, shape (m,)
            The target class of each reconstruction.

        Returns
        -------
        Scores
            One score per reconstruction, in the same order.

        Raises
        ------
        ValueError
            If the lengths differ, or if a target class has no private image.
        """
        if len(guesses) != len(targets):
            raise ValueError(f"{len(guesses)} guesses, but {len(targets)} targets")
        confidence, features = (np.asarray(values, np.float64) for values in self._evaluator.measure(guesses))
        ssim, mse = (np.empty(len(guesses)) for _ in range(2))
        for target in np.unique(targets):
            rows = np.flatnonzero(targets == target)
            ssim[rows], mse[rows] = self._nearest_pixels(guesses[rows], int(target))
        of_target = confidence[np.arange(len(guesses)), targets]
        distances = np.stack([nearest_distance(features, self.private_features(label)) for label in self._classes])
        return Scores(
            evaluator_confidence=of_target,
            evaluator_hit=confidence.argmax(axis=1) == targets,
            evaluator_rank=(confidence >= of_target[:, None]).sum(axis=1),
            feature_distance=distances[np.searchsorted(self._classes, targets), np.arange(len(guesses))],
            nearest_class=self._classes[distances.argmin(axis=0)],
            ssim_nearest=ssim,
            psnr_nearest_db=-10 * np.log10(np.maximum(mse, 10 ** (-PSNR_CEILING_DB / 10))),
            features=features,
        )

    def most_similar_class(self, guesses: Images) -> npt.NDArray[np.int64]:
        """Return the class of the private image with the largest SSIM to each reconstruction, of all classes, (m,).

        It compares each reconstruction with every private image, unlike `score`.
        """
        ssim = np.stack([self._nearest_pixels(guesses, int(label))[0] for label in self._classes])
        return np.asarray(self._classes[ssim.argmax(axis=0)])

    def _blocks(self, target: int, size: int) -> Iterator[Images]:
        members = np.flatnonzero(self._labels == target)
        if not len(members):
            raise ValueError(f"class {target} has no private image to compare with")
        for start in range(0, len(members), size):
            yield self._private.images(members[start : start + size])

    def private_features(self, target: int) -> npt.NDArray[np.float64]:
        """Return the evaluator's features of the n private images of a class, shape (n, features)."""
        if target not in self._features:
            blocks = [np.asarray(self._evaluator.measure(block)[1]) for block in self._blocks(target, 1024)]
            self._features[target] = np.concatenate(blocks).astype(np.float64)
        return self._features[target]

    def _nearest_pixels(self, guesses: Images, target: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the largest SSIM and the smallest MSE to the private images of a class, shape (m,) each."""
        queried = Planes.of(guesses)
        ssim = np.full(len(guesses), -np.inf)
        mse = np.full(len(guesses), np.inf)
        for block in self._blocks(target, max(1, _BLOCK // max(guesses[0].size, len(guesses)))):
            ssim_block, mse_block = queried.compare(Planes.of(block))
            np.maximum(ssim, ssim_block.max(axis=1), out=ssim)
            np.minimum(mse, mse_block.min(axis=1), out=mse)
        return ssim, mse


def random_images(shape: tuple[int, ...], n: int, rng: np.random.Generator) -> Images:
    """Return images of uniform noise, shape (n, *shape): the zero-query baseline of an attacker without data."""
    return rng.random((n, *shape), np.float32)


def prior_images(pool: ImagePool, n: int, rng: np.random.Generator) -> Images:
    """Return auxiliary images: the zero-query baseline of an attacker that has such images but sends no query.

    Images are drawn regardless of class, because an auxiliary set may be unlabelled. They are drawn without replacement
    unless the pool has fewer than n.
    """
    return pool.images(rng.choice(len(pool), n, replace=n > len(pool)))
