"""Evasions that alter the images of an attack, compared with results by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from mifsim.clients import Answer, ClientGenerator, Evasion, Image, Query, World
from mifsim.clients.evasions.disguised import Morph, Texture
from mifsim.clients.evasions.filtered import Denoise, Sharpen, smoothed
from mifsim.clients.evasions.nearest import NearestImages
from mifsim.errors import StudyError
from mifsim.study import Study
from mifsim.testing.worlds import StrictPool, small_world

RNG = np.random.default_rng(0)


def pool_of(*images: Any) -> StrictPool:
    return StrictPool(np.array(images, np.float32), np.zeros(len(images), np.int64))


def copies(evasion: Evasion, pool: StrictPool, *images: Image) -> list[Image]:
    """Return what is sent of an attack with these images."""

    def attack(world: World, rng: np.random.Generator) -> ClientGenerator:
        for image in images:
            yield Query(image)
        return None

    world = World(pool.image(0).shape, 2, pool, 1)
    running = evasion.run(attack, world, np.random.default_rng(0))
    queries = [next(running), *(running.send(Answer(0)) for _ in images[1:])]
    for query, image in zip(queries, images, strict=True):
        assert query.guess is image
    return [query.image for query in queries]


def smoothed_by_hand(image: Image, sigma: float) -> np.ndarray:
    """A Gaussian at whole distances up to half of 8 sigma + 1, with mirrored edges, summed pixel by pixel."""
    radius = round(8 * sigma + 1) // 2
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    total = sum(weights)
    height, width = image.shape

    def mirrored(k: int, size: int) -> int:
        k %= 2 * size
        return k if k < size else 2 * size - 1 - k

    found = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            for i, down in enumerate(weights):
                for j, right in enumerate(weights):
                    pixel = image[mirrored(y + i - radius, height), mirrored(x + j - radius, width)]
                    found[y, x] += down * right * float(pixel) / total**2
    return found


# The nearest auxiliary image.


def nearest_by_hand(images: np.ndarray, image: Image) -> int:
    """The first index of least distance, with sums in plain Python."""
    distances = [
        math.fsum((float(a) - float(b)) ** 2 for a, b in zip(other.ravel(), image.ravel(), strict=True))
        for other in images
    ]
    return distances.index(min(distances))


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 40),
    shape=st.sampled_from([(3, 4), (8, 8), (4, 5, 3)]),
    rank=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_the_nearest_image_is_that_of_least_distance(seed: int, count: int, shape: tuple[int, ...], rank: int) -> None:
    """Pixels are multiples of 1/4, so that ties and repeated images occur; a low rank leaves few principal axes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 5, (count, *shape)).astype(np.float32) / np.float32(4)
    if rank:
        images = images[rng.integers(0, min(rank, count), count)]
    search = NearestImages.among(images)
    for number in range(5):
        image = rng.integers(0, 5, shape).astype(np.float32) / np.float32(4)
        if number == 0:
            image = images[rng.integers(count)]
        assert search.index(image) == nearest_by_hand(images, image)


def test_the_nearest_of_many_images_does_not_depend_on_the_number_of_threads() -> None:
    """With more images than principal components, so that the bound excludes some."""
    images = RNG.random((300, 12, 12), np.float32)
    queries = RNG.random((50, 12, 12), np.float32)
    expected = [int(((images - query).astype(np.float64) ** 2).sum((1, 2)).argmin()) for query in queries]
    for threads in (1, 4):
        with threadpool_limits(threads):
            search = NearestImages.among(images)
            assert [search.index(query) for query in queries] == expected


def test_a_pool_is_prepared_once() -> None:
    world, other = small_world(), small_world(seed=1)
    search = NearestImages.of(world.pool, world.shape)
    assert NearestImages.of(world.pool, world.shape) is search
    assert NearestImages.of(other.pool, other.shape) is not search
    assert all(search.index(world.pool.image(index)) == index for index in range(len(world.pool)))


# Altered copies.


def test_morph_mixes_in_the_nearest_image() -> None:
    black, white = np.zeros((2, 2)), np.ones((2, 2))
    dark, light = np.full((2, 2), 0.4, np.float32), np.full((2, 2), 0.6, np.float32)
    sent = copies(Morph(share=0.25), pool_of(white, black), dark, light)
    np.testing.assert_allclose(sent[0], np.full((2, 2), 0.3), atol=1e-7)  # 0.75 * 0.4 + 0.25 * 0
    np.testing.assert_allclose(sent[1], np.full((2, 2), 0.7), atol=1e-7)  # 0.75 * 0.6 + 0.25 * 1


def test_morph_leaves_auxiliary_images_alone() -> None:
    pool = StrictPool.random((6, 6), 2, each=5)
    images = [pool.image(index) for index in range(len(pool))]
    np.testing.assert_allclose(copies(Morph(share=0.3), pool, *images), images, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 3.0])
def test_smoothing_is_a_gaussian_with_mirrored_edges(sigma: float) -> None:
    for image in (RNG.random((7, 5), np.float32), np.eye(6, dtype=np.float32)):
        np.testing.assert_allclose(smoothed(image, sigma), smoothed_by_hand(image, sigma), atol=1e-6)


def test_smoothing_treats_each_channel_alone() -> None:
    image = RNG.random((7, 5, 3), np.float32)
    for channel in range(3):
        alone = smoothed(np.ascontiguousarray(image[..., channel]), 1.0)
        np.testing.assert_allclose(smoothed(image, 1.0)[..., channel], alone, atol=1e-6)


def test_texture_adds_what_smoothing_removes_from_the_nearest_image() -> None:
    natural = np.float32(0.3) + np.float32(0.4) * RNG.random((6, 6), np.float32)
    flat = np.full((6, 6), 0.5, np.float32)
    black = np.zeros((6, 6), np.float32)
    (sent,) = copies(Texture(strength=0.5, sigma=1.0), pool_of(black, natural), flat)
    np.testing.assert_allclose(sent, flat + 0.5 * (natural - smoothed_by_hand(natural, 1.0)), atol=1e-6)
    (sent,) = copies(Texture(), pool_of(black, natural), np.full((6, 6), 0.01, np.float32))
    np.testing.assert_allclose(sent, np.full((6, 6), 0.01), atol=1e-7)  # the black image has no texture


def test_sharpening_is_an_unsharp_mask_within_the_range_of_pixels() -> None:
    image = RNG.random((7, 7), np.float32)
    (sent,) = copies(Sharpen(strength=1.5, sigma=1.0), pool_of(image), image)
    unclipped = image + 1.5 * (image - smoothed_by_hand(image, 1.0))
    assert unclipped.min() < 0
    assert unclipped.max() > 1
    np.testing.assert_allclose(sent, np.clip(unclipped, 0, 1), atol=1e-6)
    flat = np.full((7, 7), 0.25, np.float32)
    (sent,) = copies(Sharpen(strength=10.0), pool_of(image), flat)
    np.testing.assert_allclose(sent, flat, atol=1e-5)


def test_denoising_reduces_the_standard_deviation_of_noise_as_a_gaussian_does() -> None:
    """White noise smoothed in two dimensions keeps about 1 / (2 sqrt(pi) sigma) of its standard deviation."""
    image = np.float32(0.5) + np.float32(0.05) * RNG.standard_normal((200, 200), np.float32)
    for sigma in (1.0, 2.0):
        (sent,) = copies(Denoise(sigma=sigma), pool_of(image), image)
        assert sent.std() / image.std() == pytest.approx(1 / (2 * math.sqrt(math.pi) * sigma), rel=0.05)
        assert sent.mean() == pytest.approx(image.mean(), abs=1e-3)


@pytest.mark.parametrize(
    ("evasion", "complaint"),
    [
        ({"morph": 1.0}, r"morph\.share"),
        ({"texture": 0}, r"texture\.strength"),
        ({"mimic": 0.5}, r"mimic\.share"),
        ({"penalty": 0}, r"penalty\.weight"),
        ({"penalty": {"share": 0.5}}, r"penalty\.share"),
        ({"penalty": {"skip": -1}}, r"penalty\.skip"),
        ({"sharpen": {"sigma": 0}}, r"sharpen\.sigma"),
        ({"denoise": "much"}, r"denoise\.sigma"),
        ({"accounts": 1}, r"accounts\.accounts"),
        ({"accounts": {"order": "round-robin"}}, r"accounts\.order.*'in-turn' or 'one-after-another'"),
        ({"accounts": {"order": "one-after-another", "turn": 5}}, "turn = 5: has no effect with order"),
    ],
)
def test_arguments_out_of_range_are_refused(evasion: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StudyError, match=complaint):
        Study.parse({"name": "s", "attacks": [{"attack": "mi-face", "evasions": [evasion]}]})
