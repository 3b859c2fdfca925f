"""Latent spaces compared with their definitions: numpy's SVD, the identity as covariance, known images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from mifsim.clients.attackers import latent
from mifsim.clients.attackers.latent import Kind, LatentSpace, fit_latent
from mifsim.clients.attackers.networks import Autoencoder
from mifsim.testing.worlds import StrictPool

GREY, COLOUR = (12, 10), (9, 7, 3)
KINDS: tuple[Kind, ...] = ("pca", "autoencoder")


def blobs(shape: tuple[int, ...], n: int, seed: int = 0) -> StrictPool:
    """Return images with four degrees of freedom: position, size and brightness of a soft spot."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    y, x = (rng.uniform(0.25, 0.75, (2, n, 1, 1)).T * shape[:2]).T
    width, peak = rng.uniform(1.5, 3, (n, 1, 1)), rng.uniform(0.3, 0.9, (n, 1, 1))
    spots = peak * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
    images = spots if len(shape) == 2 else spots[..., None] * np.array([1.0, 0.5, 0.2])
    return StrictPool(images.astype(np.float32), np.arange(n) % 2)


def stack(pool: StrictPool) -> np.ndarray:
    """Return all images of a pool as one array."""
    return np.stack([pool.image(i) for i in range(len(pool))])


@pytest.fixture(autouse=True, scope="module")
def _short_training() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Autoencoder, "STEPS", 400)
        patch.setattr(latent, "_fitted", {})
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [GREY, COLOUR], ids=["grey", "colour"])
class TestEverySpace:
    def fitted(self, kind: Kind, shape: tuple[int, ...]) -> tuple[LatentSpace, StrictPool]:
        pool = blobs(shape, 80)
        return fit_latent(pool, shape, kind, 4), pool

    def test_coordinates_of_the_auxiliary_images_have_mean_0_and_covariance_i(
        self, kind: Kind, shape: tuple[int, ...]
    ) -> None:
        space, pool = self.fitted(kind, shape)
        codes = space.encode(stack(pool))
        assert codes.shape == (80, 4)
        np.testing.assert_allclose(codes.mean(axis=0), 0, atol=1e-9)
        np.testing.assert_allclose(np.cov(codes.T), np.eye(4), atol=1e-9)

    def test_decodes_to_valid_images(self, kind: Kind, shape: tuple[int, ...]) -> None:
        space, _ = self.fitted(kind, shape)
        images = space.decode(100 * space.sample(np.random.default_rng(0), 40))
        assert images.dtype == np.float32
        assert images.shape == (40, *shape)
        assert images.min() >= 0
        assert images.max() <= 1

    def test_reconstructs_its_images_better_than_their_mean(self, kind: Kind, shape: tuple[int, ...]) -> None:
        space, pool = self.fitted(kind, shape)
        images = stack(pool)
        squared_error = np.mean((space.decode(space.encode(images)) - images) ** 2)
        assert squared_error < 0.75 * images.var(axis=0).mean()  # after a short training

    def test_a_decoded_image_does_not_depend_on_its_batch(self, kind: Kind, shape: tuple[int, ...]) -> None:
        space, _ = self.fitted(kind, shape)
        z = space.sample(np.random.default_rng(1), 40)
        np.testing.assert_array_equal(space.decode(z)[35:36], space.decode(z[35:36]))

    def test_a_space_depends_neither_on_earlier_fits_nor_on_the_global_generator(
        self, kind: Kind, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        space, _ = self.fitted(kind, shape)
        z = space.sample(np.random.default_rng(2), 3)
        monkeypatch.setattr(latent, "_fitted", {})
        monkeypatch.setattr(latent, "_last", {})
        other = fit_latent(blobs(shape, 60, seed=9), shape, kind, 3)
        np.random.seed(5)  # noqa: NPY002 - the global generator must have no effect
        again, _ = self.fitted(kind, shape)
        assert again is not space
        assert other.size == 3
        np.testing.assert_array_equal(space.decode(z), again.decode(z))


def test_pca_agrees_with_numpys_svd() -> None:
    pool = blobs(GREY, 60)
    rows = stack(pool).reshape(60, -1).astype(np.float64)
    mean = rows.mean(axis=0)
    _, singular, axes = np.linalg.svd(rows - mean, full_matrices=False)
    space = fit_latent(pool, GREY, "pca", 5)
    expected = mean + (rows - mean) @ axes[:5].T @ axes[:5]
    got = space.decode(space.encode(stack(pool))).reshape(60, -1)
    np.testing.assert_allclose(got, np.clip(expected, 0, 1), atol=1e-6)
    # A move of 1 along a coordinate is one standard deviation along one axis; only its sign is arbitrary.
    step = space.decode(np.eye(5)[:1] * 1e-2) - space.decode(np.zeros((1, 5)))
    expected_step = singular[0] / np.sqrt(59) * axes[0] * 1e-2
    assert abs(np.vdot(step, expected_step)) == pytest.approx(np.vdot(expected_step, expected_step), rel=1e-3)


def test_pca_decodes_0_to_the_mean_image() -> None:
    pool = blobs(COLOUR, 30)
    mean = fit_latent(pool, COLOUR, "pca", 3).decode(np.zeros((1, 3)))[0]
    np.testing.assert_allclose(mean, stack(pool).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_has_no_more_coordinates_than_the_images_span(kind: Kind) -> None:
    assert fit_latent(blobs(GREY, 4), GREY, kind, 10).size == 3


def test_pca_of_more_images_than_pixels_reconstructs_them() -> None:
    pool = StrictPool.random((3, 3), 2, each=50)
    space = fit_latent(pool, (3, 3), "pca", 9)
    np.testing.assert_allclose(space.decode(space.encode(stack(pool))), stack(pool), atol=1e-6)


def test_identical_images_are_an_error() -> None:
    pool = StrictPool(np.full((5, 4, 4), 0.5, np.float32), np.zeros(5, np.int64))
    with pytest.raises(ValueError, match="all identical"):
        fit_latent(pool, (4, 4), "pca", 3)


def test_a_space_is_fitted_once_for_equal_arguments() -> None:
    first = fit_latent(blobs(GREY, 50), GREY, "pca", 3)
    assert fit_latent(blobs(GREY, 50), GREY, "pca", 3) is first  # equal content, another pool object
    assert fit_latent(blobs(GREY, 50), GREY, "pca", 2) is not first
    assert fit_latent(blobs(GREY, 50), GREY, "pca", 3, seed=1) is not first
    assert fit_latent(blobs(GREY, 50, seed=1), GREY, "pca", 3) is not first


def test_a_large_pool_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent, "MOST_IMAGES", 11)
    pool = blobs(GREY, 101)
    thin = StrictPool(stack(pool)[::10].copy(), pool.labels[::10].copy())
    z = np.eye(3)
    np.testing.assert_array_equal(
        fit_latent(pool, GREY, "pca", 3).decode(z), fit_latent(thin, GREY, "pca", 3).decode(z)
    )


def test_latents_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(n, 3\)"):
        fit_latent(blobs(GREY, 50), GREY, "pca", 3).decode(np.zeros(3))


def test_pca_needs_no_tensorflow_and_does_not_depend_on_the_number_of_threads() -> None:
    program = (
        "import sys, hashlib, numpy as np; from mifsim.clients.attackers.latent import fit_latent\n"
        "class Pool:\n"
        "    def __len__(self): return 300\n"
        "    def image(self, i): return np.random.default_rng(i).random((28, 28), np.float32)\n"
        "pool = Pool(); space = fit_latent(pool, (28, 28), 'pca', 20)\n"
        "print(hashlib.sha256(space.decode(space.sample(np.random.default_rng(0), 40)).tobytes()).hexdigest())\n"
        "print('tensorflow' in sys.modules)"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": threads},
        ).stdout.split()
        for threads in ("1", "4")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0][1] == "False"
