"""Users that send altered copies of images: re-uploads, client-side augmentation, shared borders."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest, chisquare
from skimage.measure import block_reduce

from mifsim.clients import Image, User, World
from mifsim.clients.users.augmentation import Augmentation
from mifsim.clients.users.borders import Borders
from mifsim.clients.users.reuploads import ReUploads
from mifsim.testing.worlds import StrictPool, converse

SIDE = 16


def smooth_pool(count: int = 12, colour: bool = False) -> StrictPool:
    """Return 8-bit images without fine detail, which JPEG compression and resizing hardly change."""
    shape = (count, SIDE, SIDE, 3) if colour else (count, SIDE, SIDE)
    noise = np.random.default_rng(0).random(shape)
    images = np.stack([gaussian_filter(image, (3, 3, 0) if colour else 3) for image in noise])
    images = (images - images.min()) / (images.max() - images.min())
    return StrictPool((np.rint(images * 255) / 255).astype(np.float32), np.zeros(count, np.int64))


POOL = smooth_pool()
COLOUR = smooth_pool(colour=True)


def sent(user: User, seed: int = 0, pool: StrictPool = POOL) -> list[Image]:
    """Return the images that a user sends in one session."""
    world = World(pool.image(0).shape, 1, pool)
    return [query.image for query in converse(user, world, np.random.default_rng(seed), queries=10**6).queries]


def pillow_jpeg(image: Image, quality: int) -> Image:
    """Compress and decompress an image with another JPEG encoder."""
    file = io.BytesIO()
    Pillow.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Pillow.open(file), np.float32) / 255


class TestReUploads:
    @staticmethod
    def copies(pool: StrictPool = POOL, **arguments: Any) -> list[tuple[Image, Image]]:
        """Return pairs (original, copy); with a window of 1, each copy is of the last original."""
        user = ReUploads.model_validate({"length": 300, "probability": 0.5, "window": 1, **arguments})
        pairs, original = [], None
        for image in sent(user, pool=pool):
            if pool.index_of(image) >= 0:
                original = image
            else:
                assert original is not None
                pairs.append((original, image))
        return pairs

    def test_share_of_copies_is_the_probability(self) -> None:
        images = sent(ReUploads(length=2001, probability=0.3))
        copies = sum(POOL.index_of(image) < 0 for image in images[1:])
        assert binomtest(copies, 2000, 0.3).pvalue > 1e-3

    @pytest.mark.parametrize("pool", [POOL, COLOUR], ids=["grey", "colour"])
    def test_a_copy_is_jpeg_compressed_at_the_given_quality(self, pool: StrictPool) -> None:
        for quality in (30, 90):
            for original, copy in self.copies(pool, scale=1, quality=quality)[:20]:
                np.testing.assert_allclose(copy, pillow_jpeg(original, quality), atol=3 / 255)
        coarse, fine = (
            np.mean([np.abs(a - b).mean() for a, b in self.copies(pool, scale=1, quality=quality)])
            for quality in (10, 95)
        )
        assert coarse > 3 * fine

    def test_a_copy_is_shrunk_by_area_averaging_and_enlarged_again(self) -> None:
        for original, copy in self.copies(scale=0.5, quality=100)[:20]:
            small = block_reduce(original, (2, 2), np.mean)
            # Bilinear enlargement by 2 gives each pixel (9 × its block + 3 × each of two neighbours + 1 × the diagonal
            # one) / 16. The mean over the four pixels of an inner block is the separable filter 1/8, 3/4, 1/8.
            kernel = np.outer([1, 6, 1], [1, 6, 1]) / 64
            windows = np.lib.stride_tricks.sliding_window_view(small, (3, 3))
            inside = np.einsum("ijkl,kl->ij", windows, kernel)
            np.testing.assert_allclose(block_reduce(copy, (2, 2), np.mean)[1:-1, 1:-1], inside, atol=3 / 255)

    def test_a_larger_window_copies_older_originals(self) -> None:
        images = sent(ReUploads(length=1500, probability=0.4, window=4, scale=1, quality=100))
        fresh: list[int] = []
        ages: Counter[int] = Counter()
        for image in images:
            if (index := POOL.index_of(image)) >= 0:
                fresh.append(index)
            elif len(fresh) >= 4:
                distances = [np.abs(POOL.image(i) - image).mean() for i in fresh[:-5:-1]]
                ages[int(np.argmin(distances))] += 1
        assert set(ages) == {0, 1, 2, 3}
        assert chisquare(list(ages.values())).pvalue > 1e-3


class TestAugmentation:
    def test_versions_come_in_the_order_of_the_fields(self) -> None:
        user = Augmentation(length=60, crops=2, qualities=(80, 20), scales=(0.5,))
        images = sent(user)
        period = 1 + 1 + 2 + 2 + 1
        originals = images[::period]
        assert sorted({POOL.index_of(image) for image in originals}) == sorted(
            {POOL.index_of(image) for image in images} - {-1}
        )
        for start, original in zip(range(0, 56, period), originals, strict=False):
            _, mirrored, _, _, good, bad, small = images[start : start + period]
            np.testing.assert_array_equal(mirrored, np.fliplr(original))
            np.testing.assert_allclose(good, pillow_jpeg(original, 80), atol=3 / 255)
            np.testing.assert_allclose(bad, pillow_jpeg(original, 20), atol=3 / 255)
            np.testing.assert_allclose(small.mean(), original.mean(), atol=0.02)

    def test_versions_can_be_switched_off(self) -> None:
        images = sent(Augmentation(length=12, flip=False, crops=0, qualities=(), scales=()))
        assert sorted(POOL.index_of(image) for image in images) == list(range(12))

    def test_a_crop_has_the_given_size_and_a_uniform_position(self) -> None:
        """On a linear ramp, a crop's slope gives its size, and its mean level gives its position."""
        ramp = np.tile(np.linspace(0.1, 0.9, 64, dtype=np.float32), (64, 1))
        pool = StrictPool(ramp[None].copy(), np.zeros(1, np.int64))
        user = Augmentation(length=1001, flip=False, crops=1000, crop=0.5, qualities=(), scales=())
        crops = np.array(sent(user, pool=pool)[1:])
        step = 0.8 / 63
        slopes = np.diff(crops[:, 32, 8:-8], axis=1)
        np.testing.assert_allclose(slopes, step / 2, atol=1e-4)
        edges = (crops.mean(axis=(1, 2)) - 0.1) / step - 15.5  # left edge of each crop, in pixels
        columns = Counter(np.rint(edges).astype(int).tolist())
        assert set(columns) == set(range(33))
        assert chisquare(list(columns.values())).pvalue > 1e-3


class TestBorders:
    @pytest.mark.parametrize(
        ("style", "block", "inside"),
        [
            ("frame", (2, 2), np.s_[4:12, 4:12]),
            ("letterbox", (2, 1), np.s_[4:12, :]),
            ("pillarbox", (1, 2), np.s_[:, 4:12]),
        ],
    )
    def test_the_image_is_shrunk_to_fit_inside_the_border(
        self, style: Any, block: tuple[int, int], inside: Any
    ) -> None:
        images = sent(Borders(length=12, style=style, border=0.25, level=0.3, detail=0))
        border = np.ones((SIDE, SIDE), np.bool_)
        border[inside] = False
        expected = [block_reduce(POOL.image(index), block, np.mean) for index in range(12)]
        found = set()
        for image in images:
            np.testing.assert_allclose(image[border], 0.3, atol=1e-6)
            errors = [np.abs(image[inside] - content).max() for content in expected]
            found.add(int(np.argmin(errors)))
            assert min(errors) < 1e-5
        assert len(found) == 12

    def test_border_detail_is_constant_in_a_session_and_has_the_given_contrast(self) -> None:
        arguments = {"style": "frame", "border": 0.25, "level": 0.5, "detail": 0.1, "length": 3}
        pool = smooth_pool(3, colour=True)
        first = sent(Borders.model_validate(arguments), pool=pool)
        corner = np.s_[:4, :4]
        np.testing.assert_array_equal(first[0][corner], first[1][corner])
        corners = [sent(Borders.model_validate(arguments), seed, pool)[0][:2, :2].mean((0, 1)) for seed in range(300)]
        assert np.std(corners) == pytest.approx(0.1, rel=0.1)
        assert np.mean(corners) == pytest.approx(0.5, abs=0.02)

    def test_styles_are_equally_likely(self) -> None:
        white = StrictPool(np.ones((1, SIDE, SIDE), np.float32), np.zeros(1, np.int64))
        user = Borders(length=1, border=0.25, level=0, detail=0)
        bars = [sent(user, seed, white)[0] for seed in range(600)]
        styles = Counter((bool(image[0, 8]), bool(image[8, 0])) for image in bars)
        assert set(styles) == {(False, False), (False, True), (True, False)}
        assert chisquare(list(styles.values())).pvalue > 1e-3

    def test_a_border_of_zero_leaves_the_image_unchanged(self) -> None:
        images = sent(Borders(length=12, border=0))
        assert sorted(POOL.index_of(image) for image in images) == list(range(12))
