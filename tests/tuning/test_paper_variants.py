"""Similarity variants: dynamic range 255 against scikit-image, and the order in which configurations detect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from mifsim.defense import simple_hash
from mifsim.defense.ssim_hash.recorder import SsimHashRecorder
from tuning.paper.plan import configs as table_1
from tuning.paper.similarity_variants import (
    SIMILARITY_VARIANTS,
    MultiVariantRecorder,
    SimilarityVariant,
    VariantRecording,
    apply_variant,
)
from tuning.replay import replay


def stream(seed: int, shape: tuple[int, ...], step: float, length: int = 12) -> list[np.ndarray]:
    """Return a random walk, which resembles an attacker's iterates."""
    rng = np.random.default_rng(seed)
    image = rng.random(shape, np.float32)
    images = []
    for _ in range(length):
        image = np.clip(image + np.float32(step) * rng.standard_normal(shape, np.float32), 0, 1).astype(np.float32)
        images.append(image)
    return images


def record(images: list[np.ndarray], n_b: int = 10) -> MultiVariantRecorder:
    recorder = MultiVariantRecorder(n_b)
    for image in images:
        recorder.check(image)
    return recorder


@pytest.mark.parametrize("shape", [(28, 28), (16, 16, 3)])
@pytest.mark.parametrize("step", [0.3, 0.01])
def test_ssim_for_a_range_of_255_equals_that_of_scikit_image(shape: tuple[int, ...], step: float) -> None:
    images = stream(1, shape, step)
    rows = record(images).similarity
    axis = 2 if len(shape) == 3 else None
    for n, image in enumerate(images[1:], 1):
        expected = structural_similarity(image, images[n - 1], data_range=255, channel_axis=axis)
        assert rows["uniform", 255][n][0] == pytest.approx(expected, abs=1e-6)
        default = structural_similarity(image, images[n - 1], data_range=1, channel_axis=axis)
        assert rows["uniform", 1][n][0] == pytest.approx(default, abs=1e-6)


def test_global_ssim_for_a_range_of_255_equals_equation_1() -> None:
    x, y = stream(2, (28, 28), 0.2, 2)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    a, b = x.astype(np.float64), y.astype(np.float64)
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    expected = (2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)
    expected /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var() + b.var() + c2)
    assert record([x, y]).similarity["global", 255][1][0] == pytest.approx(expected, abs=1e-6)


def test_the_plain_variant_records_the_same_as_the_filters_recorder() -> None:
    images = stream(3, (28, 28), 0.05)
    variants, recorder = record(images), SsimHashRecorder(10, ("global",))
    for n, image in enumerate(images):
        recorder.check(image)
        row = variants.similarity["global", 1][n]
        assert row[: min(n, 10)].tolist() == recorder.last_similarities["global"].tolist()
        assert np.isnan(row[min(n, 10) :]).all()
        assert variants.hashes[64][n] == simple_hash(image, 64)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-4, 1e-3, 1e-2]), st.sampled_from(SIMILARITY_VARIANTS))
def test_a_stricter_configuration_never_detects_first(
    seed: int, step: float, similarity_variant: SimilarityVariant
) -> None:
    """Every match of configuration 2 is a match of configuration 1, and every match of 1 is a match of configuration 3.

    In the paper configuration 2 detects first on some labels, so its rows cannot come from the same sessions.
    """
    traces = VariantRecording.of([record(stream(seed, (12, 12), step, 20))]).traces(
        similarity_variant, is_attack=True, budget=20
    )
    blocked_at = {
        name: int(replay(traces, apply_variant(config, similarity_variant, "per_match")).blocked_at[0]) or 10**9
        for name, config in table_1("MNIST").items()
    }
    assert blocked_at["config_3"] <= blocked_at["config_1"] <= blocked_at["config_2"]
