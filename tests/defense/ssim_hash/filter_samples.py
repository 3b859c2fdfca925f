"""Constant images and configurations for tests of the filter whose counts are computed by hand."""

import numpy as np

from mifsim.defense import FilterConfig


def flat(level, shape=(12, 12)):
    """Return a constant image; its hash equals the level exactly if the level is a multiple of 1/256."""
    return np.full(shape, level, dtype=np.float32)


def verdicts(detector, images):
    return [detector.check(image).name for image in images]


def make_config(**fields):
    return FilterConfig(**{"t_ssim": 0.9, "t_hash": 0.1, "n_b": 10, "l_sp": 3} | fields)


A, B, C = flat(0.0), flat(0.5), flat(1.0)  # no two of them are similar
