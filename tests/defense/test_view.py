"""Views of images, compared with plain averages and with the definition of luma."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mifsim.defense import FilterConfig, InvalidImage, ModelAnswer, NoDefense, NoDefenseConfig, Verdict, View
from mifsim.defense.view import ViewedDetector
from mifsim.errors import ConfigError


def random_image(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 12)


@given(seeds, sides, sides, st.integers(1, 4), st.integers(1, 4), st.sampled_from([(), (1,), (3,)]))
@settings(max_examples=100, deadline=None)
def test_each_pixel_of_a_view_is_the_mean_of_its_block(
    seed: int, height: int, width: int, down: int, across: int, channels: tuple[int, ...]
) -> None:
    image = random_image(seed, height * down, width * across, *channels)
    viewed = View((height, width)).apply(image)
    assert viewed.shape == (height, width, *channels) == View((height, width)).shape(image.shape)
    assert viewed.dtype == np.float32
    blocks = image.astype(np.float64).reshape(height, down, width, across, *channels).mean(axis=(1, 3))
    np.testing.assert_allclose(viewed, blocks, atol=1e-6)


@given(seeds, st.integers(1, 30), st.integers(1, 30), st.data())
@settings(max_examples=100, deadline=None)
def test_a_view_preserves_the_mean_for_all_sizes(seed: int, height: int, width: int, data: st.DataObject) -> None:
    """This also applies where a pixel of the view covers fractions of the image's pixels."""
    image = random_image(seed, height, width)
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    viewed = View(size).apply(image)
    assert viewed.shape == size
    assert viewed.mean(dtype=np.float64) == pytest.approx(image.mean(dtype=np.float64), abs=1e-5)
    assert image.min() - 1e-6 <= viewed.min() <= viewed.max() <= image.max() + 1e-6


@given(seeds, sides, sides)
@settings(deadline=None)
def test_grey_is_the_luma_of_rec_601(seed: int, height: int, width: int) -> None:
    image = random_image(seed, height, width, 3)
    viewed = View(colour="grey").apply(image)
    assert viewed.shape == (height, width)
    np.testing.assert_allclose(viewed, image.astype(np.float64) @ [0.299, 0.587, 0.114], atol=1e-6)


@pytest.mark.parametrize("colour", ["as-is", "grey"])
def test_white_and_black_images_keep_their_level(colour: str) -> None:
    """Rounding must not raise a white image above 1, because detectors would refuse it."""
    for level in (0.0, 1.0):
        viewed = View((5, 3), colour).apply(np.full((13, 11, 3), level, np.float32))  # type: ignore[arg-type]
        assert viewed.min() >= 0
        assert viewed.max() <= 1
        np.testing.assert_allclose(viewed, level, atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 9), (9, 9, 1)])
def test_a_grey_image_is_its_own_luma(shape: tuple[int, ...]) -> None:
    image = random_image(1, *shape)
    assert View(colour="grey").shape(shape) == shape
    np.testing.assert_array_equal(View(colour="grey").apply(image), image)


def test_conversion_to_grey_and_reduction_commute() -> None:
    image = random_image(2, 12, 8, 3)
    np.testing.assert_allclose(
        View((3, 4), "grey").apply(image), View(colour="grey").apply(View((3, 4)).apply(image)), atol=1e-6
    )


def test_a_view_of_the_same_size_is_the_image() -> None:
    image = random_image(3, 6, 7, 3)
    np.testing.assert_array_equal(View((6, 7)).apply(image), image)


@given(sides, sides, sides, sides)
def test_a_view_larger_than_the_image_is_refused(height: int, width: int, rows: int, columns: int) -> None:
    view, image = View((rows, columns)), np.zeros((height, width), np.float32)
    if rows <= height and columns <= width:
        assert view.problem(image.shape) == ""
        return
    message = f"a view of {rows} x {columns} needs images at least as large, got {height} x {width}"
    assert view.problem(image.shape) == message
    with pytest.raises(InvalidImage, match=message):
        view.apply(image)
    for config in (NoDefenseConfig(view=view), FilterConfig(0.5, 0.5, 2, 3, view=view)):
        detector = config.detector()
        with pytest.raises(InvalidImage, match=message):
            detector.check(image)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (None, None),
        ({}, None),
        ({"colour": "as-is"}, None),
        ({"size": 64}, View((64, 64))),
        ({"size": [4, 7], "colour": "grey"}, View((4, 7), "grey")),
        ({"colour": "grey"}, View(None, "grey")),
        (View((2, 3)), View((2, 3))),
    ],
)
def test_a_table_converts_to_a_view_and_back(given_: object, expected: View | None) -> None:
    assert View.parse(given_) == expected
    if expected is not None:
        assert View.parse(expected.to_dict()) == expected


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (64, 'view = 64: must be a table such as {size = 64, colour = "grey"}'),
        ({"sizes": 64}, "view: unknown key 'sizes' (accepted: size, colour)"),
        ({"colour": "gray"}, "view.colour = 'gray': must be one of as-is, grey"),
        *(
            ({"size": size}, f"view.size = {size!r}: must be a whole number of at least 1, or [height, width]")
            for size in (0, -1, 2.5, "64", True, [4], [4, 0], [4, 5, 6], [4, 2.5], [True, 4])
        ),
    ],
)
def test_an_invalid_view_is_refused(given_: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        View.parse(given_)
    assert str(error.value) == message


def test_a_view_is_described_in_words() -> None:
    assert str(View((4, 7), "grey")) == "4×7 grey"
    assert str(View((4, 7))) == "4×7 colours as they are"
    assert str(View(None, "grey")) == "grey"


class DetectorSpy(NoDefense):
    """A detector that stores the last image and the last answer that it received."""

    def check(self, image: object) -> Verdict:
        verdict = super().check(image)
        self.image = image
        return verdict

    def observe(self, answer: ModelAnswer) -> None:
        self.answer = answer


def test_a_viewed_detector_receives_the_view_and_the_answer() -> None:
    inner = DetectorSpy()
    detector = ViewedDetector(inner, View((2, 2), "grey"))
    image = random_image(4, 4, 4, 3)
    assert detector.check(image) is Verdict.SAFE
    np.testing.assert_array_equal(inner.image, View((2, 2), "grey").apply(image))
    answer = ModelAnswer(3, np.zeros(10, np.float32))
    detector.observe(answer)
    assert inner.answer is answer
    # All images of a session need the first one's shape, even if other shapes give the same view.
    with pytest.raises(InvalidImage):
        detector.check(random_image(4, 6, 6, 3))
    with pytest.raises(InvalidImage):
        detector.check(np.full((4, 4, 3), np.nan, np.float32))
    restored_detector = ViewedDetector(DetectorSpy(), View((2, 2), "grey")).restored(detector.state_dict())
    with pytest.raises(InvalidImage):
        restored_detector.check(random_image(4, 6, 6, 3))
    assert (detector.count, detector.blocked) == (0, False)


def test_a_filter_with_a_view_gives_the_verdicts_of_a_filter_on_views() -> None:
    """The filter applies its view itself; a filter without a view, given the views, returns the same verdicts."""
    view = View((5, 6), "grey")
    config, plain = FilterConfig(0.5, 0.2, 3, 4, view=view), FilterConfig(0.5, 0.2, 3, 4)
    detector, reference = config.detector(), plain.detector()
    rng = np.random.default_rng(5)
    base = rng.random((11, 13, 3))
    for _ in range(12):
        image = np.clip(base + rng.normal(0, 0.2, base.shape), 0, 1).astype(np.float32)
        assert detector.check(image) is reference.check(view.apply(image))
        assert detector.count == reference.count
    assert detector.blocked
