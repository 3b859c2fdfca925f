"""The paper's filter for several sessions at once.

This module imports numba and OpenCV, so import it only in functions that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mifsim.defense.detector import BatchVerdicts
from mifsim.defense.images import admit_each, planes_of_each
from mifsim.defense.ssim_hash import kernels
from mifsim.defense.ssim_hash.buffer import CODES, statistics_arrays

if TYPE_CHECKING:
    from mifsim.defense.ssim_hash.config import FilterConfig


class FilterBatch:
    """The filters of several sessions with the same configuration, which judge an image of each in one call.

    The verdicts and counts are those of a `QueryFilter` for each session, to the bit. See `DetectorBatch`.

    Parameters
    ----------
    config : FilterConfig
        Without a view, and without repeats that are counted apart.
    sessions : int
    shape : tuple of int
        Shape of all images.
    """

    def __init__(self, config: FilterConfig, sessions: int, shape: tuple[int, ...]) -> None:
        height, width, channels = (*shape, 1)[:3]
        self._config = config
        self._width = width
        self._planes = np.empty((sessions, config.n_b, channels, height * width), dtype=np.float32)
        self._hashes = np.empty((sessions, config.n_b))
        self._statistics = statistics_arrays(sessions, config.n_b, shape, config.ssim)
        self._places = np.zeros((sessions, 2), dtype=np.int64)
        self._counts = np.zeros(sessions)

    def check(self, members: npt.NDArray[np.int64], images: npt.NDArray[np.float32]) -> BatchVerdicts:
        """Return the verdicts for one image of each of some sessions; see `DetectorBatch.check`."""
        config = self._config
        valid, hashes = admit_each(images, config.hash_size)
        judged = members
        if not valid.all():
            judged, images, hashes = members[valid], images[valid], hashes[valid]
        if len(judged):
            # fmt: off
            kernels.judge(
                CODES[config.ssim], config.t_ssim, config.t_hash, config.l_sp, config.count_rule == "per_query",
                config.leak, False, judged, planes_of_each(images), self._width, hashes,
                self._planes, *self._statistics, self._hashes, self._places, self._counts
            )
            # fmt: on
        counts = self._counts[members]
        return BatchVerdicts(valid, counts < config.l_sp, counts)
