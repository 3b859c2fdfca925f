"""Users with a camera: video and kiosk."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import kstest

from mifsim.clients import Image, User, World
from mifsim.clients.users.camera import NOISE_TABLE, add_noise, drawn_noise
from mifsim.clients.users.kiosk import Kiosk
from mifsim.clients.users.video import Video
from mifsim.testing.worlds import StrictPool, converse

SIDE = 21
GREY = StrictPool(np.full((2, SIDE, SIDE), 0.5, np.float32), np.zeros(2, np.int64))
RANDOM = StrictPool.random((SIDE, SIDE), 4, each=6)


def sent(user: User, seed: int = 0, pool: StrictPool = GREY) -> npt.NDArray[np.float32]:
    """Return the images that a user sends in one session."""
    world = World(pool.image(0).shape, 1, pool)
    queries = converse(user, world, np.random.default_rng(seed), queries=10**6).queries
    return np.array([query.image for query in queries])


def correlation(path: npt.NDArray[np.floating[Any]], lag: int) -> float:
    """Return the autocorrelation of a sequence."""
    return float(np.corrcoef(path[:-lag], path[lag:])[0, 1])


class TestNoise:
    @pytest.mark.parametrize("shape", [(28, 28), (64, 64, 3), (160, 160, 3)], ids=["table", "table 3", "drawn"])
    def test_noise_is_normal_white_and_new_at_each_call(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(1)
        assert (np.prod(shape) > NOISE_TABLE // 16) == (shape[0] == 160)
        one, other = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        add_noise(one, drawn_noise(shape, rng), 0.02)
        add_noise(other, drawn_noise(shape, rng), 0.02)
        assert one.dtype == np.float32
        assert one.shape == shape
        assert kstest(one.ravel()[:20000] / 0.02, "norm").pvalue > 1e-3
        bound = 4 / np.sqrt(one.size)
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < bound
        assert abs(correlation(one.ravel(), 1)) < bound

    def test_noise_is_added_to_the_image(self) -> None:
        plain, grey = np.zeros((8, 8, 3), np.float32), np.full((8, 8, 3), 0.25, np.float32)
        for image in (plain, grey):
            add_noise(image, drawn_noise(image.shape, np.random.default_rng(3)), 0.02)
        np.testing.assert_allclose(grey - 0.25, plain, atol=1e-7)


def video(**arguments: Any) -> Video:
    """Return a video user without any variation except the given arguments."""
    no_variation = {"shift_pixels": 0, "rotation_degrees": 0, "zoom": 0, "gain": 0, "noise": 0}
    return Video.model_validate({**no_variation, **arguments})


def blob(row: float = 10, column: float = 10, width: float = 1.5) -> Image:
    """Return the image of a bright spot on black."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2)).astype(np.float32)


def pool_of(image: Image) -> StrictPool:
    """Return a pool with a single image."""
    return StrictPool(image[None].copy(), np.zeros(1, np.int64))


def centres(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the centre of mass (row, column) of each image."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images = images.astype(np.float64)
    mass = images.sum(axis=(1, 2))
    return np.stack([(images * rows).sum((1, 2)) / mass, (images * columns).sum((1, 2)) / mass], axis=1)


class TestVideo:
    def test_scenes_show_one_subject_after_the_other(self) -> None:
        frames = sent(video(length=300, scene={"min": 4, "max": 6}), pool=RANDOM)
        runs = [(index, len(list(run))) for index, run in groupby(map(RANDOM.index_of, frames))]
        assert sorted(index for index, _ in runs[:24]) == list(range(24))
        assert {frames for _, frames in runs[:-1]} == {4, 5, 6}

    def test_motion_has_the_given_standard_deviation_and_memory(self) -> None:
        path = centres(sent(video(length=6000, scene=6000, memory_frames=5, shift_pixels=0.8), pool=pool_of(blob())))
        assert path.std(axis=0) == pytest.approx([0.8, 0.8], rel=0.1)
        assert path.mean(axis=0) == pytest.approx([10, 10], abs=0.15)
        for lag in (1, 5, 10):
            assert correlation(path[:, 0], lag) == pytest.approx(np.exp(-lag / 5), abs=0.08)
        assert np.corrcoef(path.T)[0, 1] == pytest.approx(0, abs=0.1)

    def test_rotation_and_zoom_are_about_the_centre(self) -> None:
        turned = centres(sent(video(length=3000, scene=1, rotation_degrees=4), pool=pool_of(blob(10, 16, 1.0))))
        assert turned[:, 0].std() == pytest.approx(np.deg2rad(4) * 6, rel=0.1)  # arc = angle · radius
        zoomed = centres(sent(video(length=3000, scene=1, zoom=0.05), pool=pool_of(blob(10, 15, 1.0))))
        assert np.log((zoomed[:, 1] - 10) / 5).std() == pytest.approx(0.05, rel=0.1)
        assert zoomed[:, 0].std() < 0.02

    def test_light_drifts_and_noise_does_not(self) -> None:
        light = sent(video(length=4000, scene=4000, memory_frames=5, gain=0.05)).mean(axis=(1, 2))
        assert (light / 0.5).std() == pytest.approx(0.05, rel=0.1)
        assert correlation(light, 3) == pytest.approx(np.exp(-3 / 5), abs=0.08)
        noisy = sent(video(length=200, scene=200, noise=0.02)) - 0.5
        assert noisy.std() == pytest.approx(0.02, rel=0.02)
        assert correlation(noisy.reshape(200, -1).ravel(), SIDE * SIDE) == pytest.approx(0, abs=0.02)


def kiosk(**arguments: Any) -> Kiosk:
    """Return a kiosk user without any variation except the given arguments."""
    no_variation = {"shift_pixels": 0, "zoom": 0, "light": 0, "pattern": 0, "response": 0, "noise": 0, "shots": 1}
    return Kiosk.model_validate({**no_variation, **arguments})


class TestKiosk:
    def test_a_session_has_one_background_and_many_subjects(self) -> None:
        shots = sent(kiosk(length=24, subject=0.6), pool=RANDOM)
        rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
        radius = np.hypot(rows, columns) / 0.6
        outside, inside = radius > 1.08, radius < 0.92
        assert np.ptp(shots[:, outside], axis=0).max() == 0
        subjects = {int(np.argmin(np.abs(RANDOM._images[:, inside] - shot[inside]).max(axis=1))) for shot in shots}
        assert subjects == set(range(24))
        for shot in shots:
            assert min(np.abs(RANDOM._images[:, inside] - shot[inside]).max(axis=1)) < 1e-6

    def test_the_wall_is_a_linear_ramp_that_differs_between_sessions(self) -> None:
        rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
        outside = np.hypot(rows, columns) > 1.08 * 0.5
        design = np.stack([np.ones(outside.sum()), rows[outside], columns[outside]], axis=1)
        levels = []
        for seed in range(20):
            wall = sent(kiosk(length=1, subject=0.5), seed)[0][outside]
            solution, residual, *_ = np.linalg.lstsq(design, wall, rcond=None)
            assert residual[0] < 1e-8
            levels.append(solution[0])
            assert np.abs(solution[1:] / solution[0]).max() <= 0.2
        assert len({round(level, 6) for level in levels}) == 20
        assert 0.2 <= min(levels) < 0.35
        assert 0.65 < max(levels) <= 0.8

    def test_the_sensor_pattern_is_fixed_during_a_session(self) -> None:
        shots = sent(kiosk(length=5, subject=1.6, pattern=0.02))
        assert np.ptp(shots, axis=0).max() == 0
        assert (shots[0] - 0.5).std() == pytest.approx(0.02, rel=0.15)
        assert not np.array_equal(shots[0], sent(kiosk(length=1, subject=1.6, pattern=0.02), seed=1)[0])

    def test_relative_sensitivity_does_not_depend_on_the_light(self) -> None:
        dark, bright = (
            sent(kiosk(length=1, subject=1.6, response=0.05), pool=pool_of(np.full((SIDE, SIDE), level, np.float32)))[0]
            for level in (0.2, 0.6)
        )
        assert (bright / 0.6).std() == pytest.approx(0.05, rel=0.15)
        np.testing.assert_allclose(bright / 0.6, dark / 0.2, rtol=1e-5)

    def test_light_drifts_over_subjects_and_noise_is_new_in_every_shot(self) -> None:
        light = sent(kiosk(length=4000, subject=1.6, light=0.05, memory_shots=4)).mean(axis=(1, 2)) / 0.5
        assert light.std() == pytest.approx(0.05, rel=0.1)
        assert correlation(light, 3) == pytest.approx(np.exp(-3 / 4), abs=0.08)
        noisy = sent(kiosk(length=100, subject=1.6, noise=0.02)) - 0.5
        assert noisy.std(axis=0).mean() == pytest.approx(0.02, rel=0.03)

    def test_subjects_vary_in_position_and_size(self) -> None:
        pool = pool_of(blob(10, 14, 1.0))
        arguments = {"subject": 1.6, "length": 2000}
        assert centres(sent(kiosk(shift_pixels=0.5, **arguments), pool=pool)).std(axis=0) == pytest.approx(
            [0.5] * 2, rel=0.1
        )
        zoomed = centres(sent(kiosk(zoom=0.05, **arguments), pool=pool))
        assert np.log((zoomed[:, 1] - 10) / 4).std() == pytest.approx(0.05, rel=0.1)

    def test_each_subject_has_the_given_number_of_shots(self) -> None:
        shots = sent(kiosk(length=200, shots={"min": 2, "max": 3}, subject=1.6), pool=RANDOM)
        runs = [len(list(run)) for _, run in groupby(map(RANDOM.index_of, shots))]
        assert set(runs[:-1]) == {2, 3}
