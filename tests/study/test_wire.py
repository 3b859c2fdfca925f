"""Transports of images to the server, and response policies for its answers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mifsim.clients.protocol import Knowledge
from mifsim.defense import InvalidImage
from mifsim.study.wire import ResponsePolicy, Transport

images = hnp.arrays(np.float32, st.sampled_from([(9, 7), (8, 8, 3)]), elements=st.floats(0, 1, width=32))


@given(images)
def test_float32_arrives_unchanged(image: np.ndarray) -> None:
    assert np.array_equal(Transport.parse("float32").arrive(image), image)


@given(images)
def test_uint8_rounds_by_at_most_half_a_step_and_is_idempotent(image: np.ndarray) -> None:
    transport = Transport.parse("uint8")
    once = transport.arrive(image)
    assert np.abs(once - image).max() <= 0.5 / 255 + 1e-7
    assert np.array_equal(transport.arrive(once), once)


def test_jpeg_matches_a_round_trip_through_opencv() -> None:
    image = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    bgr = np.rint(image * 255).astype(np.uint8)[..., ::-1]
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / np.float32(255)
    assert np.array_equal(Transport.parse("jpeg-30").arrive(image), expected)


def test_jpeg_keeps_the_order_of_the_colour_channels() -> None:
    red = np.zeros((16, 16, 3), dtype=np.float32)
    red[..., 0] = 1
    arrived = Transport.parse("jpeg-90").arrive(red)
    assert arrived[..., 0].min() > 0.9
    assert arrived[..., 1:].max() < 0.1


@pytest.mark.parametrize("kind", ["uint8", "jpeg-50"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.01, 1.01])
def test_an_invalid_pixel_is_refused_before_the_transport_could_make_it_valid(kind: str, bad: float) -> None:
    image = np.zeros((8, 8), dtype=np.float32)
    image[3, 3] = bad
    with pytest.raises(InvalidImage):
        Transport.parse(kind).arrive(image)


CONFIDENCE = np.array([[0.1, 0.45678, 0.3, 0.14322], [0.25, 0.25, 0.25, 0.25]], dtype=np.float32)


def test_response_policies_return_the_documented_output() -> None:
    assert ResponsePolicy.parse("label").shown(CONFIDENCE) is None
    assert np.array_equal(ResponsePolicy.parse("confidence").shown(CONFIDENCE), CONFIDENCE)
    rounded = ResponsePolicy.parse("rounded-2").shown(CONFIDENCE)
    assert rounded == pytest.approx(np.array([[0.1, 0.46, 0.3, 0.14], [0.25] * 4]))
    top = ResponsePolicy.parse("top-2").shown(CONFIDENCE)
    nan = np.nan
    assert np.array_equal(top, np.array([[nan, 0.45678, 0.3, nan], [0.25, 0.25, nan, nan]], np.float32), equal_nan=True)


def test_response_policies_state_the_knowledge_that_they_give() -> None:
    knowledge = {name: ResponsePolicy.parse(name).gives for name in ("label", "top-1", "rounded-3", "confidence")}
    assert knowledge == {
        "label": Knowledge.LABEL,
        "top-1": Knowledge.TOP_K,
        "rounded-3": Knowledge.CONFIDENCE,
        "confidence": Knowledge.CONFIDENCE,
    }


@pytest.mark.parametrize("text", ["", "jpeg", "jpeg-101", "jpeg-0", "float16", "uint8 "])
def test_an_unknown_transport_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="accepted"):
        Transport.parse(text)


@pytest.mark.parametrize("text", ["", "top-0", "rounded", "labels", "top--1", "rounded-0", "rounded-31", "rounded-40"])
def test_an_unknown_response_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="accepted"):
        ResponsePolicy.parse(text)
