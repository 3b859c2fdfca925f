"""A direct implementation of the kind ``evidence`` in float64: numpy, scipy, and a list of earlier queries."""

from __future__ import annotations

import numpy as np
from scipy.signal import convolve2d

LAPLACE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float64)


def reference_features(image, mean, axes, deviations):
    """Return coordinates, average, noisy and smooth of an image of shape (H, W) or (H, W, C)."""
    difference = image.reshape(-1).astype(np.float64) - mean.astype(np.float64)
    coordinates = difference @ axes.astype(np.float64)
    average = np.linalg.norm(coordinates[:20] / deviations[:20].astype(np.float64))
    planes = image[..., None] if image.ndim == 2 else image
    responses = np.concatenate(
        [
            np.abs(convolve2d(planes[..., c].astype(np.float64), LAPLACE, mode="valid")).ravel()
            for c in range(planes.shape[2])
        ]
    )
    responses.sort()
    noisy = responses[(len(responses) - 1) // 2] * np.sqrt(np.pi / 2) / 6
    smooth = 1 - (coordinates**2).sum() / (difference**2).sum()
    return coordinates, average, noisy, smooth


class ReferenceDetector:
    """Leaky counts over these features; `margin` is how near a comparison came to a tie."""

    def __init__(self, config):
        self.config, self.arrays = config, config.arrays()
        self.memory: list[np.ndarray] = []
        self.images: list[np.ndarray] = []
        self.counts = {flag.name: 0.0 for flag in config.enabled()}
        self.margin = np.inf

    def check(self, image) -> bool:
        """Judge an image; return whether the client is blocked."""
        arrays = self.arrays
        coordinates, average, noisy, smooth = reference_features(
            image, arrays["mean"], arrays["axes"], arrays["deviations"]
        )
        near = coordinates[:30]
        distances = sorted(float(np.linalg.norm(near - other)) for other in self.memory)
        repeated = any(np.array_equal(image, other) for other in self.images)
        if repeated:
            distances = []
        else:
            self.images = [*self.images, image][-self.config.memory :]
            self.memory = [*self.memory, near][-self.config.memory :]
        k = self.config.k
        values = {
            "neighbours": distances[k - 1] if len(distances) >= k else np.inf,
            "average": average, "noisy": noisy, "smooth": smooth, "repeats": float(repeated), "queries": 1.0,
        }  # fmt: skip
        blocked = False
        for flag in self.config.enabled():
            value = values[flag.name]
            self.margin = min(self.margin, abs(value - flag.radius))
            raised = value > flag.radius if flag.above else value < flag.radius
            self.counts[flag.name] = max(0.0, self.counts[flag.name] + raised - flag.leak)
            blocked |= self.counts[flag.name] >= flag.limit
        return blocked


def reference_scalars(image, mean, axes, deviations):
    """Return the scalars of an image for the classifier of naturalness, in the order of `SCALARS`."""
    coordinates, average, noisy, smooth = reference_features(image, mean, axes, deviations)
    difference = image.reshape(-1).astype(np.float64) - mean.astype(np.float64)
    total = (difference**2).sum()
    bands = [(coordinates[a:b] ** 2).sum() / total for a, b in ((0, 5), (5, 20), (20, None))]
    values = image.astype(np.float64)
    planes = values[..., None] if values.ndim == 2 else values
    across = planes[1:-1, 2:] - planes[1:-1, :-2]
    down = planes[2:, 1:-1] - planes[:-2, 1:-1]
    cross = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=np.float64)
    responses = np.stack([convolve2d(planes[..., c], cross, mode="valid") for c in range(planes.shape[2])], axis=-1)
    gradient, laplacian = (across**2 + down**2).mean(), (responses**2).mean()
    bins = np.bincount(np.minimum((values.ravel() * 16).astype(int), 15), minlength=16) / values.size
    return np.array(
        [
            average, noisy, smooth, *bands, np.linalg.norm(coordinates / deviations.astype(np.float64)),
            np.sqrt(total / values.size), values.mean(), values.std(), values.min(), values.max(), (values == 0).mean(),
            (values < 0.05).mean(), (values > 0.95).mean(), (bins**2).sum(), gradient, laplacian,
            laplacian / gradient if gradient else 0.0, kurtosis(responses.ravel()) if laplacian > 1e-12 else 0.0,
            ((values >= 0.05) & (values < 0.5)).mean(), np.sqrt((across**2 + down**2).max()),
        ]
    )  # fmt: skip


def kurtosis(values):
    """Return the fourth moment about zero over the square of the second."""
    return (values**4).mean() / (values**2).mean() ** 2
