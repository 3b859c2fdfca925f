"""Detectors accept valid images and refuse all other values; a refused value does not change their state."""

from __future__ import annotations

import numpy as np
import pytest

from mifsim.defense import FilterConfig, InvalidImage, NoDefense, QueryFilter, Verdict, simple_hash
from mifsim.defense.ssim_hash.recorder import SsimHashRecorder

DETECTORS = {
    "filter": lambda: QueryFilter(FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=3, l_sp=3)),
    "windowed filter": lambda: QueryFilter(FilterConfig(t_ssim=0.9, t_hash=0.1, n_b=3, l_sp=3, ssim="gaussian")),
    "recorder": lambda: SsimHashRecorder(3, ("global", "uniform")),
    "open": NoDefense,
}


@pytest.fixture(params=DETECTORS)
def detector(request):
    return DETECTORS[request.param]()


def valid_image(dtype=np.float32, shape=(12, 12)):
    image = np.random.default_rng(0).random(shape)
    return (255 * image).astype(np.uint8) if dtype == np.uint8 else image.astype(dtype)


def invalid_image(value, dtype):
    image = valid_image(dtype)
    image[5, 7] = value
    return image


def observable_state(detector):
    """Return all observable parts of a detector's state."""
    if isinstance(detector, QueryFilter):
        state = detector.state_dict()
        return detector.count, state["shape"], state["images"].tolist()
    if isinstance(detector, SsimHashRecorder):
        return detector.last_hash, [row.tolist() for row in detector.last_similarities.values()], repr(detector)
    return detector._shape


FLOATS = [np.float16, np.float32, np.float64]
OUT_OF_RANGE = [np.nan, np.inf, -np.inf, -1e-3, 1.001, 255.0]
NOT_IMAGES = {
    "None": None,
    "list": [[0.0] * 12] * 12,
    "text": "image",
    "scalar": np.float32(0.5),
    "0-d": np.array(0.5),
    "1-d": np.zeros(144),
    "4-d": np.zeros((1, 12, 12, 3)),
    "channels first": np.zeros((3, 12, 12)),
    "2 channels": np.zeros((12, 12, 2)),
    "4 channels": np.zeros((12, 12, 4)),
    "empty": np.zeros((0, 12)),
    "empty colour": np.zeros((12, 0, 3)),
    "bool": np.zeros((12, 12), dtype=bool),
    "int64": np.zeros((12, 12), dtype=np.int64),
    "int8": np.zeros((12, 12), dtype=np.int8),
    "uint16": np.zeros((12, 12), dtype=np.uint16),
    "complex": np.zeros((12, 12), dtype=np.complex64),
    "object": np.zeros((12, 12), dtype=object),
    "str": np.full((12, 12), "0.5"),
    "masked": np.ma.masked_array(np.zeros((12, 12)), mask=np.eye(12)),
}
if np.dtype(np.longdouble).itemsize > 8:
    NOT_IMAGES["longdouble"] = np.zeros((12, 12), dtype=np.longdouble)


@pytest.mark.parametrize("dtype", [*FLOATS, np.uint8])
@pytest.mark.parametrize("shape", [(12, 12), (12, 12, 1), (12, 12, 3)], ids=str)
def test_valid_images_are_accepted(detector, dtype, shape):
    assert detector.check(valid_image(dtype, shape)) is Verdict.SAFE
    assert detector.check(np.zeros(shape, dtype)) is Verdict.SAFE
    assert detector.check(np.ones(shape, dtype)) is Verdict.SAFE


@pytest.mark.parametrize("value", OUT_OF_RANGE)
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_image_with_an_invalid_value_is_refused_and_changes_no_state(detector, dtype, value):
    for checked_before in range(3):
        before = observable_state(detector)
        with pytest.raises(InvalidImage, match=r"got .*; an image is a numpy array of shape .* floats in \[0, 1\]"):
            detector.check(invalid_image(value, dtype))
        assert observable_state(detector) == before
        detector.check(np.full((12, 12), checked_before / 2, dtype=dtype))
        assert observable_state(detector) != before or isinstance(detector, NoDefense)


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_a_value_that_is_not_an_image_is_refused_and_changes_no_state(detector, name):
    for _ in range(2):
        before = observable_state(detector)
        with pytest.raises(InvalidImage, match=r"^got "):
            detector.check(NOT_IMAGES[name])
        assert observable_state(detector) == before
        detector.check(valid_image())


def test_each_message_describes_the_refused_value():
    filter_ = DETECTORS["filter"]()
    for image, message in (
        (None, "got NoneType"),
        (invalid_image(np.nan, np.float32), "got 1 NaN of 144 values"),
        (invalid_image(-np.inf, np.float16), "got 1 infinite of 144 values"),
        (invalid_image(1.5, np.float64), r"got values from 0\.\d+ to 1\.5;"),
        (np.zeros((3, 12, 12)), r"got shape \(3, 12, 12\)"),
        (np.zeros((12, 12), dtype=np.int64), "got dtype int64"),
    ):
        with pytest.raises(InvalidImage, match=message):
            filter_.check(image)


def test_the_smallest_excess_of_a_float64_value_is_detected():
    """The check precedes the conversion to float32, which would round the excess away."""
    with pytest.raises(InvalidImage, match=r"to 1\.0000000000000002"):
        simple_hash(invalid_image(np.nextafter(1.0, 2), np.float64))
    with pytest.raises(InvalidImage, match="from -5e-324"):
        simple_hash(invalid_image(-5e-324, np.float64))


@pytest.mark.parametrize("other", [(12, 13), (13, 12), (12, 12, 1), (12, 12, 3), (24, 6)], ids=str)
def test_the_first_image_fixes_the_shape(detector, other):
    detector.check(valid_image())
    before = observable_state(detector)
    with pytest.raises(InvalidImage, match=r"this session's first image had shape \(12, 12\)"):
        detector.check(valid_image(shape=other))
    assert observable_state(detector) == before


def test_an_image_too_small_for_the_window_does_not_fix_the_shape():
    detector = DETECTORS["windowed filter"]()
    for shape in ((10, 40), (40, 10), (10, 10, 3)):
        with pytest.raises(InvalidImage, match="at least 11 x 11"):
            detector.check(np.zeros(shape))
    assert detector.check(np.zeros((11, 11))) is Verdict.SAFE


def test_a_recorder_needs_images_as_large_as_its_largest_window():
    with pytest.raises(InvalidImage, match="at least 7 x 7"):
        DETECTORS["recorder"]().check(np.zeros((6, 9)))


def test_layout_and_byte_order_do_not_matter():
    image = valid_image(np.float32, (12, 12, 3))
    expected = simple_hash(image)
    frozen = np.frombuffer(image.tobytes(), dtype=np.float32).reshape(image.shape)
    wide = np.zeros((24, 12, 6), dtype=np.float32)
    wide[::2, :, ::2] = image
    variants = [frozen, wide[::2, :, ::2], np.asfortranarray(image), image.astype(">f4"), image[::-1][::-1]]
    assert not frozen.flags.writeable
    for variant in variants:
        assert simple_hash(variant) == expected
    levels = valid_image(np.uint8)
    assert simple_hash(np.asfortranarray(levels)) == simple_hash(levels)
