"""Buffer of a session's last images, with cached values for their comparisons.

This module imports numba and OpenCV, so import it only in functions that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mifsim.defense.images import Pixels, Planes, admit, from_planes, hash_of, to_planes
from mifsim.defense.similarity import WINDOW, Form
from mifsim.defense.ssim_hash import kernels
from mifsim.defense.view import View

if TYPE_CHECKING:
    from mifsim.defense.ssim_hash.config import FilterConfig

CODES: dict[Form, int] = {"global": kernels.GLOBAL, "uniform": kernels.UNIFORM, "gaussian": kernels.GAUSSIAN}
"""The number of each form of SSIM in the kernels."""

_ONLY = np.zeros(1, dtype=np.int64)
"""The members of a batch of one session."""


def statistics_arrays(
    sessions: int, capacity: int, shape: tuple[int, ...], form: Form
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return arrays for the buffers of several sessions: means, contrasts, and whether they have been computed."""
    height, width, channels = (*shape, 1)[:3]
    described = np.zeros((sessions, capacity), dtype=np.bool_)
    if form == "global":
        each = sessions, capacity, channels
        return np.empty(each), np.empty(each), described
    places = sessions, capacity, channels, (height - WINDOW[form] + 1) * width
    return np.empty(places, dtype=np.int32), np.empty(places, dtype=np.float32), described


class Buffer:
    """A first-in, first-out ring buffer of images with their hashes, means and contrasts.

    Its arrays are allocated with the first image, which determines the shape.

    Parameters
    ----------
    capacity : int
        Maximum number of images.
    forms : sequence of {"global", "uniform", "gaussian"}
        Forms of SSIM for which means and contrasts are cached.
    hash_size : int
        See `FilterConfig`.
    view : View or None
        Reduction of each image before it is compared and stored; None for none.

    Attributes
    ----------
    shape : tuple of int or None
        Shape of the stored images, (H, W) or (H, W, C); None before the first image.
    submitted : tuple of int or None
        Shape of the submitted images, before the view; None before the first image.
    """

    __slots__ = (
        "_batches",
        "_hashes",
        "_planes",
        "_size",
        "_start",
        "_statistics",
        "capacity",
        "forms",
        "hash_size",
        "shape",
        "submitted",
        "view",
    )

    def __init__(self, capacity: int, forms: Sequence[Form], hash_size: int = 8, view: View | None = None) -> None:
        self.capacity = capacity
        self.forms = tuple(forms)
        self.hash_size = hash_size
        self.view = view
        self.submitted: tuple[int, ...] | None = None
        self.shape: tuple[int, ...] | None = None
        self._start = 0
        self._size = 0
        self._planes: Planes = np.empty((0, 0, 0), dtype=np.float32)
        self._hashes: npt.NDArray[np.float64] = np.empty(0)
        # For each form: means, contrasts, and whether they have been computed.
        self._statistics: dict[Form, tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]] = {}
        # For each form: all arrays of the buffer as those of a batch of one session, for `kernels.judge`.
        self._batches: dict[Form, tuple[npt.NDArray[Any], ...]] = {}

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Size of all arrays, in bytes."""
        statistics = sum(array.nbytes for arrays in self._statistics.values() for array in arrays)
        return self._planes.nbytes + self._hashes.nbytes + statistics

    def admit(self, image: object) -> tuple[Planes, float]:
        """Validate an image, and return its planes and its hash.

        Raises
        ------
        InvalidImage
            If the image is not valid in this session. The buffer does not change.
        """
        if self.shape is not None:
            pixels = admit(image, self.submitted)
            if self.view is not None:
                pixels = self.view.apply(pixels)
        else:
            smallest = max(WINDOW[form] for form in self.forms)
            pixels = admit(image, smallest=smallest if self.view is None else 1)
            submitted = pixels.shape
            if self.view is not None:
                pixels = admit(self.view.apply(pixels), smallest=smallest)
            self.submitted = submitted
            self._allocate(pixels.shape)
        return to_planes(pixels), hash_of(pixels, self.hash_size)

    def _allocate(self, shape: tuple[int, ...]) -> None:
        height, width, channels = (*shape, 1)[:3]
        self._planes = np.empty((self.capacity, channels, height * width), dtype=np.float32)
        self._hashes = np.empty(self.capacity)
        for form in self.forms:
            group = statistics_arrays(1, self.capacity, shape, form)
            means, contrasts, described = group
            self._statistics[form] = means[0], contrasts[0], described[0]
            place, count = np.zeros((1, 2), dtype=np.int64), np.zeros(1)
            self._batches[form] = self._planes[None], *group, self._hashes[None], place, count
        self.shape = shape

    def judge(self, config: FilterConfig, count: float, planes: Planes, hash_: float) -> float:
        """Run lines 4 to 12 of Algorithm 2 on an image that `admit` returned.

        Returns
        -------
        float
            The new count, at most ``config.l_sp``. The image is enqueued if the count is below ``config.l_sp``.
        """
        assert self.shape is not None
        batch = self._batches[config.ssim]
        place, counts = batch[-2:]
        place[0, 0], place[0, 1], counts[0] = self._start, self._size, count
        # fmt: off
        kernels.judge(
            CODES[config.ssim], config.t_ssim, config.t_hash, config.l_sp, config.count_rule == "per_query",
            config.leak, config.repeats > 0, _ONLY, planes[None], self.shape[1], np.array([hash_]), *batch
        )
        # fmt: on
        self._start, self._size = place[0].tolist()
        counted: float = counts[0].item()
        return counted

    def repeat_lag(self, planes: Planes, hash_: float) -> int:
        """Return the number of images from the newest equal stored image to one that `admit` returned; 0 if none."""
        lag: int = kernels.repeat_lag(planes, hash_, self._planes, self._hashes, self._start, self._size)
        return lag

    def savepoint(self) -> Callable[[], None]:
        """Return a function that undoes the next image: `admit`, and `judge` or `push`.

        It copies the image that the next one overwrites, if the buffer is full.
        """
        shape, submitted, start, size = self.shape, self.submitted, self._start, self._size
        planes, hashes, statistics = self._planes, self._hashes, self._statistics
        arrays: list[npt.NDArray[Any]] = [planes, hashes]
        for group in statistics.values():
            arrays += group
        overwritten = [array[start].copy() for array in arrays] if size == self.capacity else []

        def undo() -> None:
            self.shape, self.submitted, self._start, self._size = shape, submitted, start, size
            if shape is None:  # the first image allocated the arrays
                self._planes, self._hashes, self._statistics = planes, hashes, {}
            for array, values in zip(arrays, overwritten, strict=False):
                array[start] = values

        return undo

    def push(self, planes: Planes, hash_: float, compare: bool = True) -> dict[Form, npt.NDArray[np.float32]]:
        """Compare an image that `admit` returned with all stored images, in every form, and enqueue it.

        Returns
        -------
        dict of form to ndarray of float32
            Similarities to the stored images, the newest first; empty arrays unless `compare`.
        """
        assert self.shape is not None
        similarities = {}
        slot = (self._start + self._size) % self.capacity
        for form, (means, contrasts, described) in self._statistics.items():
            row = np.empty(self._size if compare else 0, dtype=np.float32)
            if compare:
                # fmt: off
                kernels.compare_all(
                    CODES[form], planes, self.shape[1],
                    self._planes, means, contrasts, described, self._start, self._size, row
                )
                # fmt: on
            else:
                described[slot] = False
            similarities[form] = row
        self._planes[slot] = planes
        self._hashes[slot] = hash_
        self._advance()
        return similarities

    def _advance(self) -> None:
        """Update size and start after an image was written."""
        if self._size < self.capacity:
            self._size += 1
        else:
            self._start = (self._start + 1) % self.capacity

    def images(self) -> npt.NDArray[np.float32]:
        """Return copies of the stored images, the oldest first: shape (n, *shape), or (0,) before the first image."""
        if self.shape is None:
            return np.empty(0, dtype=np.float32)
        order = (self._start + np.arange(self._size)) % self.capacity
        pixels: list[Pixels] = [from_planes(self._planes[i], self.shape) for i in order]
        return np.stack(pixels) if pixels else np.empty((0, *self.shape), dtype=np.float32)
