"""Stateful Detection on principal components against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mifsim.defense import InvalidImage, View
from mifsim.defense.kinds import merged, read_config
from mifsim.defense.osd_pca import OsdPcaConfig, threshold_of
from mifsim.errors import ConfigError
from mifsim.testing.streams import blocked_at, fitted, image_pool, record_streams
from tests.defense.published import far_from, osd_detections, osd_means

SHAPE = (12, 12)
POOL = image_pool(SHAPE)
FITTED = fitted(OsdPcaConfig(threshold=1.0), SHAPE)


def coordinates(images, config=FITTED):
    """Return the coordinates of images in float64."""
    arrays = config.arrays()
    rows = np.stack([image.reshape(-1) for image in images]).astype(np.float64)
    return list((rows - arrays["mean"]) @ arrays["axes"].astype(np.float64))


@settings(max_examples=40, deadline=None)
@given(order=st.lists(st.integers(0, 11), min_size=1, max_size=25), k=st.integers(1, 5), memory=st.integers(5, 12))
def test_recorded_means_are_those_of_all_components(order, k, memory):
    config = OsdPcaConfig(threshold=1.0, k=k, memory=memory, fit=FITTED.fit)
    images = [POOL[i] for i in order]
    found = record_streams(config, [images]).columns[f"mean_{k}_of_{memory}"]
    assert found.tolist() == pytest.approx(osd_means(coordinates(images), k, memory), abs=2e-5, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(order=st.lists(st.integers(0, 11), min_size=1, max_size=25), k=st.integers(1, 5), data=st.data())
def test_it_blocks_at_the_first_published_detection_in_these_coordinates(order, k, data):
    images = [POOL[i] for i in order]
    means = osd_means(coordinates(images), k)
    threshold = data.draw(st.floats(0.01, 6))
    assume(far_from(means, threshold, 1e-4))
    detected = osd_detections(coordinates(images), k, threshold)
    config = OsdPcaConfig(threshold=threshold, k=k, fit=FITTED.fit)
    assert blocked_at(config, images) == (detected[0] if detected else 0)


def test_the_threshold_is_a_percentile_of_the_means():
    rows = np.stack(coordinates(POOL))
    distances = np.sort(np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(axis=2)), axis=1)
    expected = np.percentile(distances[:, :5].mean(axis=1), 0.1)
    assert threshold_of(POOL, FITTED.fit, k=5) == pytest.approx(expected, abs=2e-5)


def test_the_threshold_of_a_view_needs_a_fit_with_this_view():
    view = View((6, 6))
    viewed = fitted(OsdPcaConfig(threshold=1.0, view=view), SHAPE)
    reduced = [view.apply(image) for image in POOL]
    assert threshold_of(POOL, viewed.fit, 3, view) == threshold_of(reduced, viewed.fit, 3)
    with pytest.raises(InvalidImage, match="fitted to images of shape"):
        threshold_of(POOL, viewed.fit, 3)


def test_recordings_are_merged_if_the_fit_is_the_same():
    one = OsdPcaConfig(threshold=1.0, k=3, memory=8, fit="0" * 16)
    other = OsdPcaConfig(threshold=2.0, k=5, memory=6, fit="0" * 16)
    both = merged(one.recording_spec(), other.recording_spec())
    assert dict(both.options) == {"fit": "0" * 16, "ks": (3, 5), "memories": (6, 8)}
    assert merged(one.recording_spec(), OsdPcaConfig(threshold=1.0, fit="1" * 16).recording_spec()) is None


def test_the_threshold_has_no_default_and_a_detector_needs_a_fit():
    with pytest.raises(ConfigError, match="'osd-pca' needs threshold; missing: threshold"):
        read_config({"kind": "osd-pca"})
    with pytest.raises(ConfigError, match="threshold = nan"):
        OsdPcaConfig(threshold=math.nan)
    with pytest.raises(ConfigError, match="osd-pca: fit is empty"):
        OsdPcaConfig(threshold=1.0).detector()


def test_a_state_of_other_coordinates_is_refused():
    detector = FITTED.detector()
    detector.check(POOL[0])
    state = detector.state_dict()
    assert state["memory"]["images"].shape == (1, len(FITTED.arrays()["deviations"]))
    with pytest.raises(ValueError, match="of the state"):
        FITTED.restore({**state, "memory": {"images": np.zeros((1, 144), np.float32)}})
