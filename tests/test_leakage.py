"""Leakage scores compared with scikit-image and values worked by hand; snapshots and baselines."""

from __future__ import annotations

from typing import Any

import imageio.v3 as imageio
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import mifsim.leakage
from mifsim.data.base import ArrayPool
from mifsim.leakage import (
    PSNR_CEILING_DB,
    LeakageScorer,
    Snapshots,
    prior_images,
    random_images,
    snapshot_grid,
)

SHAPES = [(15, 15), (15, 15, 3)]  # odd sizes, so that one window of scikit-image covers the image


class LinearEvaluator:
    """An evaluator whose features are a random projection; it counts the images that `measure` receives."""

    def __init__(self, shape: tuple[int, ...], classes: int = 3) -> None:
        rng = np.random.default_rng(1)
        self._to_features = rng.normal(size=(int(np.prod(shape)), 6))
        self._to_classes = rng.normal(size=(6, classes))
        self.measured = 0

    def measure(self, images: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        self.measured += len(images)
        features = images.reshape(len(images), -1) @ self._to_features
        powers = np.exp(features @ self._to_classes)
        return powers / powers.sum(axis=1, keepdims=True), features


class RecordingPool(ArrayPool):
    """An `ArrayPool` that records which images are read."""

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        self.__dict__.setdefault("read", []).append(np.asarray(indices))
        return super().images(indices)


def private_pool(shape: tuple[int, ...], each: int = 12, classes: int = 3) -> RecordingPool:
    rng = np.random.default_rng(2)
    # Smooth and of different brightness, so that SSIM and PSNR do not always name the same image.
    images = rng.integers(0, 120, (classes * each, *shape)) + rng.integers(
        0, 130, (classes * each, 1, *[1] * (len(shape) - 1))
    )
    return RecordingPool(images.astype(np.uint8), np.tile(np.arange(classes), each))


def guesses_for(pool: ArrayPool, count: int = 9) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return guesses halfway between noise and random private images, and random target classes."""
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 3, count)
    others = pool.images(rng.integers(0, len(pool), count))
    return ((others + rng.random(others.shape, np.float32)) / 2).astype(np.float32), targets


def whole_image_ssim(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> float:
    """Return scikit-image's SSIM with one window of the image's size, which is Eq. (1) over the whole image."""
    channel_axis = 2 if x.ndim == 3 else None
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(
        structural_similarity(x, y, win_size=15, data_range=1, use_sample_covariance=False, channel_axis=channel_axis)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_equal_those_of_a_loop_with_scikit_image(shape: tuple[int, ...]) -> None:
    pool, evaluator = private_pool(shape), LinearEvaluator(shape)
    guesses, targets = guesses_for(pool)
    scores = LeakageScorer(evaluator, pool, pool.labels).score(guesses, targets)
    for row, (guess, target) in enumerate(zip(guesses, targets, strict=True)):
        members = pool.images(np.flatnonzero(pool.labels == target))
        (confidence,), measured = evaluator.measure(guess[None])
        assert scores.feature_distance[row] == pytest.approx(
            min(np.linalg.norm(measured - reference) for reference in evaluator.measure(members)[1])
        )
        assert scores.ssim_nearest[row] == pytest.approx(
            max(whole_image_ssim(guess, member) for member in members), abs=1e-9
        )
        assert scores.psnr_nearest_db[row] == pytest.approx(
            max(peak_signal_noise_ratio(member.astype(float), guess.astype(float), data_range=1) for member in members)
        )
        assert scores.evaluator_confidence[row] == pytest.approx(confidence[target])
        assert scores.evaluator_hit[row] == (confidence.argmax() == target)
        assert scores.evaluator_rank[row] == 1 + sorted(confidence, reverse=True).index(confidence[target])
        _, everything = evaluator.measure(pool.images(np.arange(len(pool))))
        assert scores.nearest_class[row] == pool.labels[np.linalg.norm(everything - measured, axis=1).argmin()]
    assert {True, False} == set(scores.evaluator_hit.tolist())  # both cases occurred


def test_the_most_similar_class_is_that_of_the_largest_ssim_of_all_private_images() -> None:
    pool = private_pool((15, 15))
    guesses, _ = guesses_for(pool)
    found = LeakageScorer(LinearEvaluator((15, 15)), pool, pool.labels).most_similar_class(guesses)
    private = pool.images(np.arange(len(pool)))
    expected = [pool.labels[np.argmax([whole_image_ssim(guess, image) for image in private])] for guess in guesses]
    assert found.tolist() == expected
    assert len(set(expected)) > 1


def test_global_ssim_worked_by_hand() -> None:
    black, white = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    half = np.where(np.arange(16).reshape(4, 4) < 8, 0, 255).astype(np.uint8)
    pool = ArrayPool(np.stack([black, half]), np.array([0, 1]))
    scorer = LeakageScorer(LinearEvaluator((4, 4)), pool, pool.labels)
    guesses = np.stack([white, white, half]).astype(np.float32) / np.float32(255)
    scores = scorer.score(guesses, np.array([0, 1, 0]))
    c1, c2 = 1e-4, 9e-4
    assert scores.ssim_nearest == pytest.approx(
        [c1 / (1 + c1), (1 + c1) * c2 / ((1.25 + c1) * (0.25 + c2)), c1 * c2 / ((0.25 + c1) * (0.25 + c2))]
    )
    assert scores.psnr_nearest_db == pytest.approx([0, 10 * np.log10(2), 10 * np.log10(2)], abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_private_image_scores_the_ceiling_only_for_its_own_class(shape: tuple[int, ...]) -> None:
    pool = private_pool(shape)
    stolen = pool.images([4, 4])
    target, other = int(pool.labels[4]), (int(pool.labels[4]) + 1) % 3
    scores = LeakageScorer(LinearEvaluator(shape), pool, pool.labels).score(stolen, np.array([target, other]))
    assert scores.ssim_nearest[0] == pytest.approx(1)
    assert scores.psnr_nearest_db[0] == pytest.approx(PSNR_CEILING_DB)
    assert scores.feature_distance[0] == pytest.approx(0, abs=1e-5)
    assert scores.ssim_nearest[1] < 0.9
    assert scores.psnr_nearest_db[1] < 40
    assert scores.feature_distance[1] > 0.1


def test_psnr_is_exact_for_a_difference_of_one_grey_level() -> None:
    image = np.full((1, 28, 28), 100, np.uint8)
    near = image.copy()
    near[0, 3, 3] += 1
    pool = ArrayPool(image, np.array([0]))
    scores = LeakageScorer(LinearEvaluator((28, 28)), pool, pool.labels).score(
        near.astype(np.float32) / np.float32(255), np.array([0])
    )
    assert scores.psnr_nearest_db[0] == pytest.approx(10 * np.log10(255**2 * 28 * 28), abs=1e-3)


def test_the_size_of_the_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = private_pool((15, 15))
    guesses, targets = guesses_for(pool)
    in_one_block = LeakageScorer(LinearEvaluator((15, 15)), pool, pool.labels).score(guesses, targets)
    monkeypatch.setattr(mifsim.leakage, "_BLOCK", 5 * 15 * 15)
    pool.__dict__.pop("read")
    in_fives = LeakageScorer(LinearEvaluator((15, 15)), pool, pool.labels).score(guesses, targets)
    assert 5 in {len(indices) for indices in pool.__dict__["read"]}
    for name in ("ssim_nearest", "psnr_nearest_db", "feature_distance"):
        np.testing.assert_allclose(getattr(in_fives, name), getattr(in_one_block, name), rtol=1e-9)


def test_scoring_compares_pixels_with_the_target_classes_and_computes_features_once() -> None:
    pool, evaluator = private_pool((15, 15)), LinearEvaluator((15, 15))
    guesses, _ = guesses_for(pool, 4)
    pool.__dict__.pop("read")
    scorer = LeakageScorer(evaluator, pool, pool.labels)
    scorer.score(guesses, np.array([1, 1, 1, 1]))
    pool.__dict__.pop("read")
    for _ in range(2):
        scorer.score(guesses, np.array([1, 1, 1, 1]))
    assert {int(pool.labels[i]) for indices in pool.__dict__["read"] for i in indices} == {1}
    assert evaluator.measured == 36 + 3 * 4  # all private images once, the guesses in each call


def test_invalid_targets_are_refused() -> None:
    pool = private_pool((15, 15))
    scorer = LeakageScorer(LinearEvaluator((15, 15), classes=4), pool, pool.labels)
    guesses, targets = guesses_for(pool, 2)
    with pytest.raises(ValueError, match="2 guesses, but 1 targets"):
        scorer.score(guesses, targets[:1])
    with pytest.raises(ValueError, match="class 3 has no private image"):
        scorer.score(guesses, np.array([3, 3]))


@given(limit=st.integers(1, 10**6), per_decade=st.integers(1, 20))
def test_the_grid_is_even_on_a_log_scale(limit: int, per_decade: int) -> None:
    grid = snapshot_grid(limit, per_decade)
    assert grid[0] == 1
    assert list(grid) == sorted(set(grid))
    assert grid[-1] <= limit < 10 ** (1 / per_decade) * (grid[-1] + 1)
    decades = [10**k for k in range(7) if 10**k <= limit]
    assert set(decades) <= set(grid)
    for start in decades:
        within = [number for number in grid if start <= number < 10 * start]
        assert len(within) <= per_decade
        if start >= 1000 and 10 * start <= limit:
            assert len(within) == per_decade


class TestSnapshots:
    @staticmethod
    def snapshots_after(queries: int) -> Snapshots:
        kept = Snapshots(snapshot_grid(1000))
        for answered in range(queries + 1):
            kept.keep(answered, np.full((4, 4), answered / 1000, np.float32))
        return kept

    def test_snapshots_on_the_grid_and_the_most_recent_one_are_kept(self) -> None:
        kept = [(answered, last) for answered, last, _ in self.snapshots_after(47).as_png()]
        assert kept == [
            (1, False),
            (2, False),
            (3, False),
            (6, False),
            (10, False),
            (18, False),
            (32, False),
            (47, True),
        ]

    def test_a_most_recent_snapshot_on_the_grid_is_listed_once(self) -> None:
        assert [(answered, last) for answered, last, _ in self.snapshots_after(3).as_png()] == [
            (1, False), (2, False), (3, True),
        ]  # fmt: skip

    def test_before_the_first_answer_only_the_start_is_kept(self) -> None:
        assert [(answered, last) for answered, last, _ in self.snapshots_after(0).as_png()] == [(0, True)]

    def test_without_snapshots_there_are_no_images(self) -> None:
        assert list(Snapshots(snapshot_grid(10)).as_png()) == []

    def test_each_snapshot_is_the_guess_at_its_query(self) -> None:
        for answered, _, png in self.snapshots_after(700).as_png():
            assert np.unique(imageio.imread(png)) == round(answered / 1000 * 255)

    @pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)])
    def test_the_png_is_lossless_for_eight_bits(self, shape: tuple[int, ...]) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        kept = Snapshots(())
        kept.keep(9, pixels.astype(np.float32) / np.float32(255))
        ((_, _, png),) = kept.as_png()
        np.testing.assert_array_equal(imageio.imread(png), pixels)


def test_random_images_are_uniform_noise() -> None:
    images = random_images((20, 20, 3), 50, np.random.default_rng(0))
    assert images.dtype == np.float32
    assert images.shape == (50, 20, 20, 3)
    assert 0 <= images.min() < 0.001
    assert 0.999 < images.max() < 1
    assert images.mean() == pytest.approx(0.5, abs=0.01)
    assert images.std() == pytest.approx(1 / np.sqrt(12), abs=0.01)


@pytest.mark.parametrize(("count", "distinct"), [(20, 20), (36, 36), (50, None)])
def test_prior_images_are_distinct_images_of_the_pool_of_any_class(count: int, distinct: int | None) -> None:
    pool = private_pool((15, 15))
    images = prior_images(pool, count, np.random.default_rng(0))
    rows: list[Any] = [np.flatnonzero((pool.images(range(36)) == image).all(axis=(1, 2)))[0] for image in images]
    assert len(images) == count
    if distinct is not None:
        assert len(set(rows)) == distinct
    assert set(pool.labels[rows]) == {0, 1, 2}
