"""Similarity of all pairs of two sets: SSIM and mean square error of images, Euclidean distance of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist


@dataclass(frozen=True)
class Planes:
    """Images split by channel and centred, so that one matrix product per channel gives all covariances of two sets."""

    centred: npt.NDArray[np.float64]  # (channels, n, pixels)
    mean: npt.NDArray[np.float64]  # (channels, n)
    variance: npt.NDArray[np.float64]  # (channels, n), population variance

    @classmethod
    def of(cls, images: npt.NDArray[np.float32]) -> Planes:
        """Prepare images of shape (n, H, W) or (n, H, W, 3)."""
        count, height, width = images.shape[:3]
        planes = images.reshape(count, height * width, -1).transpose(2, 0, 1).astype(np.float64)
        mean = planes.mean(axis=2)
        planes -= mean[:, :, None]
        return cls(planes, mean, np.einsum("cnp,cnp->cn", planes, planes) / planes.shape[2])

    def compare(self, other: Planes) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the global SSIM (range 1, K1 = 0.01, K2 = 0.03) and the MSE of all pairs, (m, n) each."""
        c1, c2 = 0.01**2, 0.03**2
        mean, variance = self.mean[:, :, None], self.variance[:, :, None]
        mean_, variance_ = other.mean[:, None, :], other.variance[:, None, :]
        covariance = self.centred @ other.centred.transpose(0, 2, 1) / self.centred.shape[2]
        ssim = (2 * mean * mean_ + c1) * (2 * covariance + c2)
        ssim /= (mean**2 + mean_**2 + c1) * (variance + variance_ + c2)
        mse = variance + variance_ - 2 * covariance + (mean - mean_) ** 2
        return ssim.mean(axis=0), mse.mean(axis=0)


def nearest_distance(queried: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the Euclidean distance of each row of `queried` (m, d) to the nearest row of `others` (n, d).

    It is the same to the bit whatever the other rows are; in a matrix product, a row's place changes the last bits.
    """
    return np.asarray(cdist(queried, others).min(axis=1))
