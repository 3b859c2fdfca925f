"""The time of one verdict with a full buffer of 10, against an implementation with scikit-image or numpy."""

from __future__ import annotations

import statistics
import subprocess
import sys

import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from mifsim.defense import FilterConfig, QueryFilter, Verdict

N_B = 10
UNREACHED_LIMIT = 10**9  # a limit that no count reaches, so that the detector never blocks

FLAGS = {
    "uniform": {},
    "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
}


def skimage_ssim(form):
    """Return scikit-image's SSIM of this form."""
    flags = FLAGS[form]
    return lambda x, y: structural_similarity(x, y, data_range=1.0, channel_axis=-1 if x.ndim == 3 else None, **flags)


def numpy_ssim(x, y):
    """Return the global SSIM of two images by Eq. (1), in plain numpy."""
    axes = (0, 1)
    mx, my = x.mean(axes), y.mean(axes)
    covariance = ((x - mx) * (y - my)).mean(axes)
    luminances, contrasts = mx**2 + my**2 + 1e-4, x.var(axes) + y.var(axes) + 9e-4
    return float(np.mean((2 * mx * my + 1e-4) * (2 * covariance + 9e-4) / (luminances * contrasts)))


class PlainFilter:
    """A direct implementation of Algorithm 2 with any SSIM: buffers images and hashes, and compares hashes first."""

    def __init__(self, config, similarity):
        self.config, self.similarity = config, similarity
        self.images, self.hashes, self.count = [], [], 0

    def check(self, image):
        if self.count >= self.config.l_sp:
            return Verdict.UNSAFE
        image = np.asarray(image, dtype=np.float32)
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise ValueError("not an image")
        size = self.config.hash_size
        hash_ = float(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).mean(dtype=np.float64))
        for other, other_hash in zip(self.images, self.hashes, strict=True):
            near = abs(hash_ - other_hash) < self.config.t_hash
            if near and self.similarity(image, other) > self.config.t_ssim:
                self.count += 1
                if self.count >= self.config.l_sp:
                    return Verdict.UNSAFE
        self.images.append(image)
        self.hashes.append(hash_)
        del self.images[: -self.config.n_b], self.hashes[: -self.config.n_b]
        return Verdict.SAFE


def stream(shape, sd, length=4 * N_B):
    """Return noisy copies of one image, all of which are similar."""
    rng = np.random.default_rng(0)
    image = rng.random(shape)
    return [np.clip(image + rng.normal(0, sd, shape), 0, 1).astype(np.float32) for _ in range(length)]


def submit_in_turn(detector, images):
    """Fill the detector's buffer; return a function that submits the next image at each call."""
    for image in images:
        detector.check(image)
    position = [0]

    def submit():
        position[0] = (position[0] + 1) % len(images)
        return detector.check(images[position[0]])

    return submit


@pytest.mark.parametrize("shape", [(28, 28), (64, 64, 3)], ids=["28x28", "64x64x3"])
@pytest.mark.parametrize(
    ("form", "similarity", "targets"),
    [
        ("uniform", skimage_ssim("uniform"), {(28, 28): 50, (64, 64, 3): 30}),
        ("gaussian", skimage_ssim("gaussian"), {}),
        ("global", numpy_ssim, {(28, 28): 15, (64, 64, 3): 15}),
    ],
    ids=["uniform", "gaussian", "global"],
)
@pytest.mark.parametrize("t_hash", [1.0, 1e-12], ids=["all-hashes-pass", "no-hash-passes"])
def test_time_of_a_verdict(ratio, form, similarity, targets, shape, t_hash):
    config = FilterConfig(t_ssim=0.99, t_hash=t_hash, n_b=N_B, l_sp=UNREACHED_LIMIT, ssim=form)
    images = stream(shape, sd=0.02)
    plain, detector = PlainFilter(config, similarity), QueryFilter(config)
    for image in images:
        assert plain.check(image) is detector.check(image)
        assert plain.count == detector.count
    all_pass = t_hash == 1.0
    ratio(
        f"verdict, {form} SSIM, {'x'.join(map(str, shape))}, {'every' if all_pass else 'no'} hash passes, against "
        f"{'numpy' if form == 'global' else 'scikit-image'} in a loop",
        submit_in_turn(plain, images),
        submit_in_turn(detector, images),
        target=targets.get(shape) if all_pass else None,
    )


@pytest.mark.parametrize("shape", [(28, 28), (64, 64, 3)], ids=["28x28", "64x64x3"])
@pytest.mark.parametrize(("form", "limit"), [("global", 1.3), ("uniform", 3.5), ("gaussian", 3.5)])
def test_memory_of_a_session(measured, form, limit, shape):
    detector = QueryFilter(FilterConfig(t_ssim=0.99, t_hash=1e-3, n_b=N_B, l_sp=4, ssim=form))
    for image in np.random.default_rng(0).random((2 * N_B, *shape)):
        detector.check(image)
    name = f"arrays of one session, {form} SSIM, {'x'.join(map(str, shape))}, by its buffered float32 pixels"
    measured(name, detector.nbytes / (4 * N_B * np.prod(shape)), at_most=limit)


def test_time_of_the_import(measured):
    code = "import time, numpy; start = time.perf_counter(); import mifsim.defense; print(time.perf_counter() - start)"
    runs = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]
    measured("import mifsim.defense, beyond numpy", statistics.median(runs), at_most=0.15, unit="s")
