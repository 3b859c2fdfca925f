"""SSIM compared with scikit-image and closed forms, the hash with OpenCV, and both reproducible to the last bit."""

from __future__ import annotations

import doctest
import importlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import InvalidImage, simple_hash, ssim
from mifsim.defense.ssim_hash.recorder import SsimHashRecorder
from tests.defense.ssim_hash.reference import FORMS, reference_hash, reference_ssim

C1 = 1e-4
SHAPES = [(28, 28), (11, 11), (12, 61), (64, 64, 3), (11, 50, 1)]


def stroke(shape, rng):
    """Return an image like a digit: a smooth bright stroke on black, most pixels exactly 0."""
    image = np.zeros(shape, dtype=np.float32)
    ends = [tuple(int(v) for v in rng.integers(1, min(shape[:2]) - 1, 2)) for _ in range(2)]
    cv2.line(image, *ends, (1.0,) * 3, 2)
    return cv2.GaussianBlur(image, (3, 3), 0.7).reshape(shape).clip(0, 1)


def near(image, rng, sd=1e-3):
    return np.clip(image + rng.normal(0, sd, image.shape), 0, 1).astype(np.float32)


def image_pair(kind, shape, rng):
    noise = rng.random(shape, dtype=np.float32)
    if kind == "random":
        return noise, rng.random(shape, dtype=np.float32)
    if kind == "near":
        return noise, near(noise, rng)
    if kind == "strokes":
        return stroke(shape, rng), stroke(shape, rng)
    if kind == "near strokes":
        x = stroke(shape, rng)
        return x, near(x, rng)
    if kind == "flat":
        return np.full(shape, rng.uniform(0.9, 1), np.float32), np.full(shape, rng.uniform(0, 1), np.float32)
    if kind == "almost white":  # variances of 1e-9 and means of 1: float32 sums would be wrong
        return 1 - 1e-4 * noise, 1 - 1e-4 * rng.random(shape, dtype=np.float32)
    half = np.where(np.arange(shape[1])[:, None] < shape[1] // 2, 1.0, 0.0).astype(np.float32)
    edges = np.broadcast_to(half if len(shape) == 3 else half[:, 0], shape)
    return np.ascontiguousarray(edges), np.ascontiguousarray(edges[:, ::-1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["random", "near", "strokes", "near strokes", "flat", "almost white", "edges"])
@pytest.mark.parametrize("form", FORMS)
def test_ssim_equals_scikit_image(form, kind, shape):
    rng = np.random.default_rng(7)
    for _ in range(3):
        x, y = image_pair(kind, shape, rng)
        assert ssim(x, y, form) == pytest.approx(reference_ssim(x, y, form), abs=5e-7)


@pytest.mark.parametrize("form", FORMS)
@given(a=st.floats(0, 1, width=32), b=st.floats(0, 1, width=32))
@settings(max_examples=50, deadline=None)
def test_ssim_of_flat_images_is_the_luminance_term(form, a, b):
    x, y = np.full((12, 12), a, dtype=np.float32), np.full((12, 12), b, dtype=np.float32)
    assert ssim(x, y, form) == pytest.approx((2 * a * b + C1) / (a * a + b * b + C1), abs=5e-7)


def test_global_ssim_of_an_image_and_its_negative():
    """x in {0, 1} by halves, y = 1 - x: equal means 1/2, variances 1/4, covariance -1/4."""
    x = np.zeros((4, 4))
    x[:2] = 1
    assert ssim(x, 1 - x) == pytest.approx((-0.5 + 9e-4) / (0.5 + 9e-4), abs=1e-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ssim_of_equal_images_is_exactly_1(form, shape):
    rng = np.random.default_rng(3)
    tile = rng.random((7, 7), dtype=np.float32)  # every 7 x 7 window of a tiling contains the same values
    tiled = np.tile(tile, (10, 10))[: shape[0], : shape[1]]
    images = [
        rng.random(shape, dtype=np.float32),
        np.broadcast_to(np.atleast_3d(tiled), (*shape, 1)[:3]).reshape(shape),
    ]
    images += [np.full(shape, level, dtype=np.float32) for level in rng.random(20)]
    images += [stroke(shape, rng)]
    for image in images:
        assert ssim(image, image, form) == 1.0


@pytest.mark.parametrize("form", FORMS)
def test_ssim_is_symmetric_and_a_float32_value_in_range(form):
    rng = np.random.default_rng(5)
    for kind in ("random", "near", "edges", "flat"):
        x, y = image_pair(kind, (17, 19), rng)
        value = ssim(x, y, form)
        assert type(value) is float
        assert value == float(np.float32(value))
        assert -1 <= value <= 1
        assert ssim(y, x, form) == value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(12, 13), (50, 49), (13, 11, 3)], ids=str)
def test_a_recorded_similarity_depends_on_the_two_images_alone(form, shape):
    """Neither its position in the buffer nor the other images there affect a similarity, not even in the last bit."""
    rng = np.random.default_rng(1)
    image = rng.random(shape, dtype=np.float32)
    others = [near(image, rng, sd) for sd in (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1e-3, 1e-2)]
    expected = [ssim(image, other, form) for other in others]
    for shift in range(len(others)):
        recorder = SsimHashRecorder(len(others), (form,))
        order = np.roll(np.arange(len(others)), shift)
        for filler in rng.random((shift, *shape)):  # so that the ring buffer starts at another position
            recorder.check(filler)
        for i in order:
            recorder.check(others[i])
        recorder.check(image)
        assert recorder.last_similarities[form].tolist() == [expected[i] for i in order[::-1]]


@pytest.mark.parametrize("size", [1, 3, 8, 32])
@pytest.mark.parametrize("shape", [(28, 28), (64, 48, 3), (9, 7, 1)], ids=str)
def test_hash_is_the_mean_of_opencvs_area_resize(shape, size):
    image = np.random.default_rng(2).random(shape, dtype=np.float32)
    assert simple_hash(image, size) == pytest.approx(reference_hash(image, size), abs=1e-15)


@pytest.mark.parametrize("size", [1, 5, 8])
@pytest.mark.parametrize("shape", [(32, 64, 3), (28, 28), (11, 9)], ids=str)
def test_hash_is_the_mean_of_the_image_up_to_rounding(shape, size):
    """Area averaging gives every pixel the same weight."""
    image = np.random.default_rng(2).random(shape)
    assert simple_hash(image, size) == pytest.approx(image.mean(), abs=1e-6)


@pytest.mark.parametrize("size", [0, -1, 257])
def test_a_hash_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match=f"size = {size}: .* 1 to 256"):
        simple_hash(np.zeros((8, 8)), size)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="kind = 'local': must be one of global, uniform, gaussian"):
        ssim(np.zeros((8, 8)), np.zeros((8, 8)), "local")


def test_images_of_different_shapes_are_refused():
    with pytest.raises(InvalidImage, match=r"\(8, 8\) and \(8, 8, 1\)"):
        ssim(np.zeros((8, 8)), np.zeros((8, 8, 1)))


@pytest.mark.parametrize(("form", "least"), [("uniform", 7), ("gaussian", 11)])
def test_images_smaller_than_the_window_are_refused(form, least):
    large = np.zeros((least, least + 3))
    assert ssim(large, large, form) == 1
    for shape in ((least - 1, 20), (20, least - 1)):
        with pytest.raises(InvalidImage, match=f"at least {least} x {least}"):
            ssim(np.zeros(shape), np.zeros(shape), form)
    assert ssim(np.zeros((1, 1)), np.zeros((1, 1))) == 1


@pytest.mark.parametrize(
    "name", ["measures", "param", "view", "ssim_hash.config", "ssim_hash.filter", "ssim_hash.recorder"]
)
def test_examples_in_the_docstrings_run(name):
    module = importlib.import_module(f"mifsim.defense.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
