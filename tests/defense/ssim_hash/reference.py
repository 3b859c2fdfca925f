"""References for the tests: a direct implementation of the filter, and SSIM from scikit-image."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.metrics import structural_similarity

FORMS = ("global", "uniform", "gaussian")
FLAGS = {
    "uniform": {},
    "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
}


def reference_ssim(x, y, form):
    """Return the SSIM of two float32 images in float64: scikit-image's, or Eq. (1) in numpy if the form is global."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if form != "global":
        channels = -1 if x.ndim == 3 else None
        return structural_similarity(x, y, data_range=1.0, channel_axis=channels, **FLAGS[form])
    values = []
    for a, b in zip(np.atleast_3d(x).T, np.atleast_3d(y).T, strict=True):
        covariance = ((a - a.mean()) * (b - b.mean())).mean()
        luminance = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
        values.append(luminance * (2 * covariance + 9e-4) / (a.var() + b.var() + 9e-4))
    return float(np.mean(values))


def reference_hash(image, size=8):
    """Return the mean of the image that OpenCV's area resize gives."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).mean(dtype=np.float64)


class ReferenceFilter:
    """Algorithm 2, line by line, with any two measures; `margin` is the least distance of a comparison from a tie.

    With a leak, each query lowers the count once. With repeats, images for which `equal` is true are counted apart.
    """

    def __init__(self, config, similarity, hash_, equal=lambda image, other: image == other):
        self.config, self.similarity, self.hash, self.equal = config, similarity, hash_, equal
        self.buffer, self.count, self.repeats, self.margin = [], 0, 0, np.inf

    def check(self, image):
        if self.count >= self.config.l_sp or 0 < self.config.repeats <= self.repeats:
            return "UNSAFE"
        before, matches = self.count, 0
        if self.config.repeats and any(self.equal(image, other) for other in self.buffer):
            self.repeats += 1
            if self.repeats == self.config.repeats:
                return "UNSAFE"
        for other in self.buffer:
            if self.config.repeats and self.equal(image, other):
                continue
            similarity = self.similarity(image, other)
            gap = abs(self.hash(image) - self.hash(other))
            self.margin = min(self.margin, abs(similarity - self.config.t_ssim), abs(gap - self.config.t_hash))
            if similarity > self.config.t_ssim and gap < self.config.t_hash:
                matches += 1
                if before + matches - self.config.leak >= self.config.l_sp:
                    self.count = self.config.l_sp
                    return "UNSAFE"
                if self.config.count_rule == "per_query":
                    break
        self.count = max(0, before + matches - self.config.leak)
        self.buffer.append(image)
        self.buffer = self.buffer[-self.config.n_b :]
        return "SAFE"
