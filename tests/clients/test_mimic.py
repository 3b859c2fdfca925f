"""The evasion `mimic`: its features against those of the detector, and the images that it sends."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mifsim.clients.attackers.latent import Whitening
from mifsim.clients.evasions.mimic import FEATURES, Mimic, NaturalRange, average, noisy, smooth
from mifsim.data import load_data
from mifsim.data.config import DataConfig
from mifsim.defense.evidence.detector import EvidenceRecorder
from mifsim.defense.fit import add_fit
from mifsim.defense.server_images import fit_server_images

SHARE = 0.25


@pytest.fixture(scope="module")
def digits() -> npt.NDArray[np.float32]:
    """500 auxiliary digits."""
    pool = load_data(DataConfig(set="mnist-5k")).subset("auxiliary")
    return np.ascontiguousarray(pool.images(range(500)))


@pytest.fixture(scope="module")
def natural(digits: npt.NDArray[np.float32]) -> NaturalRange:
    return NaturalRange.among(digits, SHARE)


def unnatural(digits: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
    """Return images that attacks send, by the feature that they are unusual in."""
    rng = np.random.default_rng(0)
    whitening = Whitening.fit(digits.reshape(len(digits), -1), 20)
    flat = whitening.back(whitening.forth(digits[:1].reshape(1, -1))).reshape(28, 28)
    return {
        "mean": digits.mean(axis=0),
        "noisy": np.clip(digits[3] + 0.1 * rng.standard_normal((28, 28)), 0, 1).astype(np.float32),
        "projection": np.clip(flat, 0, 1).astype(np.float32),
    }


def test_the_features_are_those_that_the_detector_records(digits) -> None:
    fit = add_fit(fit_server_images(digits, np.arange(len(digits), dtype=np.uint64), {"data": "test", "view": None}))
    recorder = EvidenceRecorder(fit.digest, (5,), (10,))
    whitening = Whitening.fit(digits.reshape(len(digits), -1), 60)
    for image in (*digits[:5], *unnatural(digits).values()):
        recorder.check(image)
        row = recorder.row()
        assert average(image, whitening) == pytest.approx(row["average"], rel=1e-3, abs=1e-4)
        assert noisy(image, whitening) == pytest.approx(row["noisy"], rel=0.02, abs=1e-4)
        if np.abs(image - digits.mean(axis=0)).max() > 1e-6:  # that of the mean image is made of rounding errors
            assert smooth(image, whitening) == pytest.approx(row["smooth"], rel=1e-3, abs=1e-4)


def test_the_bounds_are_quantiles_of_the_images(digits, natural) -> None:
    found = np.array([[feature(image, natural.whitening) for feature in FEATURES] for image in digits])
    assert (found[:, 0] < natural.least_average).mean() == pytest.approx(SHARE, abs=0.01)
    assert (found[:, 1] > natural.most_noisy).mean() <= SHARE  # most digits have no noise at all
    assert (found[:, 2] < natural.least_smooth).mean() == pytest.approx(SHARE, abs=0.01)


@pytest.mark.parametrize(("name", "feature"), [("mean", 0), ("noisy", 1), ("projection", 2)])
def test_a_copy_of_an_unnatural_image_is_within_the_bounds(digits, natural, name, feature) -> None:
    image = unnatural(digits)[name]

    def values(image: npt.NDArray[np.float32]) -> list[float]:
        return [one(image, natural.whitening) for one in FEATURES]

    def within(found: list[float]) -> list[bool]:
        return [found[0] >= natural.least_average, found[1] <= natural.most_noisy, found[2] >= natural.least_smooth]

    assert not within(values(image))[feature]
    copy = natural.nearest_to(image)
    assert within(values(copy)) == [True, True, True]
    assert copy.dtype == np.float32
    assert copy.shape == image.shape
    assert copy.min() >= 0
    assert copy.max() <= 1
    # The copy is nearer to the image than the natural image to which it was moved.
    assert np.linalg.norm(copy - image) < np.linalg.norm(natural.search.nearest(image) - image)


def test_natural_images_stay_as_they_are(natural) -> None:
    for image in natural.search.images[:20]:
        assert natural.nearest_to(image) is image


def test_equal_auxiliary_images_give_a_range_of_a_single_point() -> None:
    images = np.full((5, 6, 6), 0.5, np.float32)
    natural = NaturalRange.among(images, SHARE)
    assert (natural.least_average, natural.most_noisy, natural.least_smooth) == (0.0, 0.0, 0.0)
    noise = np.random.default_rng(0).random((6, 6), np.float32)
    assert noisy(natural.nearest_to(noise), natural.whitening) < noisy(noise, natural.whitening)


def test_the_range_of_a_pool_depends_on_the_share() -> None:
    from mifsim.testing.worlds import small_world

    world = small_world()
    first = NaturalRange.of(world.pool, world.shape, 0.1)
    assert NaturalRange.of(world.pool, world.shape, 0.1) is first
    assert NaturalRange.of(world.pool, world.shape, 0.4).least_average >= first.least_average
    assert Mimic().share == SHARE
