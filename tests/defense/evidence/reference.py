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
