"""Precision, recall, density and coverage, compared with a loop over scikit-learn's neighbours and closed forms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.neighbors import NearestNeighbors

from mifsim.manifold import ClassManifold, radii

Floats = npt.NDArray[np.float64]


def reference_radii(points: Floats, k: int) -> Floats:
    """Return the distance to the k-th other point; scikit-learn leaves out the point itself if none is given."""
    return np.asarray(NearestNeighbors(n_neighbors=k).fit(points).kneighbors()[0][:, -1])


@pytest.mark.parametrize(("private", "made", "k"), [(40, 25, 5), (7, 30, 5), (12, 4, 5), (30, 30, 1)])
def test_the_metrics_are_those_of_a_loop_over_pairs(private: int, made: int, k: int) -> None:
    rng = np.random.default_rng(private)
    real, fake = rng.normal(size=(private, 3)), 0.8 * rng.normal(size=(made, 3)) + 1.2
    k_real, k_fake = min(k, private - 1), min(k, made - 1)
    real_radii, fake_radii = reference_radii(real, k_real), reference_radii(fake, k_fake)
    balls = [sum(np.linalg.norm(f - r) < radius for r, radius in zip(real, real_radii, strict=True)) for f in fake]
    recalled = [any(np.linalg.norm(f - r) < radius for f, radius in zip(fake, fake_radii, strict=True)) for r in real]
    covered = [any(np.linalg.norm(f - r) < radius for f in fake) for r, radius in zip(real, real_radii, strict=True)]
    found = ClassManifold.of(real, fake, k)
    assert (found.neighbours, found.recall_neighbours) == (k_real, k_fake)
    assert found.precise.tolist() == [count > 0 for count in balls]
    assert found.densities == pytest.approx(np.array(balls) / k_real)
    assert found.recall == pytest.approx(np.mean(recalled))
    assert found.coverage == pytest.approx(np.mean(covered))
    assert found.coverage > 0, "a case that tells nothing"


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_set_compared_with_itself_has_density_and_coverage_1(k: int) -> None:
    """Each point is in its own ball, and in as many of the others as there are points with it among the k − 1 nearest:
    k on average.
    """
    points = np.random.default_rng(k).normal(size=(50, 4))
    found = ClassManifold.of(points, points.copy(), k)
    assert found.densities.mean() == pytest.approx(1)
    assert (found.precise.mean(), found.recall, found.coverage) == (1, 1, 1)


def test_one_cluster_of_two_gives_half_the_coverage_and_full_precision() -> None:
    """Mode collapse: precision does not see it, coverage does. An outlier's large ball deceives neither."""
    rng = np.random.default_rng(1)
    clusters = [rng.normal(size=(30, 2)), rng.normal(size=(30, 2)) + 1000]
    found = ClassManifold.of(np.concatenate(clusters), clusters[0].copy())
    assert (found.precise.mean(), found.coverage) == (1, 0.5)
    far = ClassManifold.of(np.concatenate(clusters), np.full((4, 2), -5000.0))
    assert (far.precise.mean(), far.densities.mean(), far.coverage) == (0, 0, 0)


def test_copies_of_a_point_are_other_points() -> None:
    assert radii(np.array([[0.0], [0.0], [2.0]]), 1).tolist() == [0, 0, 2]
    assert radii(np.array([[0.0], [0.0], [2.0]]), 2).tolist() == [2, 2, 2]


def test_a_single_image_has_no_ball() -> None:
    one = ClassManifold.of(np.zeros((1, 2)), np.zeros((3, 2)))
    assert (one.neighbours, one.precise.any()) == (0, False)
    assert np.isnan(one.coverage)
    assert np.isnan(ClassManifold.of(np.zeros((3, 2)), np.zeros((1, 2))).recall)
