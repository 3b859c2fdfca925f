"""Exact and near duplicates: what is found, what is not, and that the images that are left are distinct."""

import cv2
import numpy as np
import pytest

from mifsim.data import ArrayPool, DataConfig, load_data
from mifsim.data.duplicates import (
    CHROMA_WEIGHT,
    MOST_DIFFERENCE,
    MOST_DIFFERENCE_OF_SMALL,
    MOST_RELATIVE,
    Copies,
    originals,
)
from mifsim.data.image_files import through_jpeg

DIGITS = np.asarray(load_data(DataConfig(set="mnist-5k")).subset("private").pool.pixels[::25])
FACES = np.asarray(load_data(DataConfig(set="faces", images_per_class=20)).subset("private").pool.pixels)


def pool(*stacks):
    images = np.concatenate(stacks)
    return ArrayPool(images, np.zeros(len(images), np.int64))


def resized(images, side):
    size = images.shape[1:3]
    return np.stack([cv2.resize(cv2.resize(image, (side, side), None, 0, 0, cv2.INTER_AREA), size) for image in images])


@pytest.mark.parametrize("images", [DIGITS, FACES], ids=["digits", "faces"])
def test_different_images_are_no_duplicates(images):
    assert originals(pool(images)).tolist() == list(range(len(images)))


@pytest.mark.parametrize("images", [DIGITS, FACES], ids=["digits", "faces"])
@pytest.mark.parametrize("copy", ["exact", "jpeg", "brighter by one level", "smaller"])
def test_copies_in_another_file_are_found(images, copy):
    copies = {
        "exact": images,
        "jpeg": np.stack([through_jpeg(image, 75) for image in images]),
        "brighter by one level": np.where(images < 255, images + 1, images).astype(np.uint8),
        "smaller": resized(images, 48) if images.shape[1] == 64 else images,
    }[copy]
    found = originals(pool(images, copies))
    assert set(found.tolist()) <= set(range(2 * len(images)))
    count = len(images)
    np.testing.assert_array_equal(found[:count] % count, np.arange(count))
    np.testing.assert_array_equal(found[count:] % count, np.arange(count))
    np.testing.assert_array_equal(found[:count], found[count:])


@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("copy", [".jpg", ".webp", "enlarged"])
def test_copies_of_small_colour_images_are_found(side, copy):
    """Bright rectangles on dark speckles, of which a lossy file keeps the colours of two by two pixels only."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (40, side, side, 3)).astype(np.uint8)
    for image in images:
        top, left, height, width = (*rng.integers(1, side // 2, 2), *rng.integers(3, side // 2, 2))
        image[top : top + height, left : left + width] = rng.integers(150, 255, 3)
    quality = {".jpg": cv2.IMWRITE_JPEG_QUALITY, ".webp": cv2.IMWRITE_WEBP_QUALITY}

    def copied(image):
        if copy == "enlarged":
            return cv2.resize(
                cv2.resize(image, None, None, 2, 2, cv2.INTER_CUBIC), (side, side), None, 0, 0, cv2.INTER_AREA
            )
        return cv2.imdecode(cv2.imencode(copy, image, [quality[copy], 90])[1], cv2.IMREAD_COLOR)

    found = Copies.find(pool(images, np.stack([copied(image) for image in images])))
    assert len(found) >= 38  # the edge of a strong colour can differ by more
    assert (np.abs(found.copies - found.originals) == 40).all()


@pytest.mark.parametrize("change", ["mirrored", "shifted", "inverted", "another shot"])
def test_other_versions_of_an_image_are_no_duplicates(change):
    noise = np.random.default_rng(1).normal(0, 40, FACES.shape)
    changed = {
        "mirrored": FACES[:, :, ::-1],
        "shifted": np.roll(FACES, 4, axis=2),
        "inverted": 255 - FACES,
        "another shot": np.clip(np.roll(FACES, 2, axis=1) + noise, 0, 255).astype(np.uint8),
    }[change]
    assert not len(Copies.find(pool(FACES, changed)))


def test_images_of_little_contrast_are_compared_by_their_contrast():
    """Two different textures of 1.5 levels around grey are not copies; the same texture one level brighter is."""
    texture = np.random.default_rng(2).normal(128, 3, (2, 16, 16)).round().astype(np.uint8)
    assert np.sqrt(((texture[0].astype(float) - texture[1]) ** 2).mean()) > MOST_RELATIVE * texture.std()
    assert originals(pool(texture)).tolist() == [0, 1]
    flat = np.full((2, 16, 16), [[[100]], [[101]]], np.uint8)
    assert originals(pool(flat)).tolist() == [0, 1]
    assert originals(pool(flat[:1], flat[:1])).tolist() in ([0, 0], [1, 1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(6, 9), (16, 16), (8, 8, 3)])
def test_the_images_that_are_left_are_distinct_and_every_copy_has_an_original(seed, shape):
    """Compared with all pairs; a grey image of at most 16 x 16 pixels is its own thumbnail, colours are halved."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(20, 230, (12, *shape))
    amounts = rng.uniform(0.5, 6.0 if len(shape) == 2 else 24.0, (60, *[1] * len(shape)))
    images = np.clip(centres[rng.integers(0, 12, 60)] + amounts * rng.standard_normal((60, *shape)), 0, 255)
    images = images.round().astype(np.uint8)
    flat, most = images.reshape(60, -1).astype(float), MOST_DIFFERENCE
    if len(shape) == 3:
        # OpenCV rounds the means to whole levels.
        means = np.floor(images.reshape(60, 4, 2, 4, 2, 3).mean(axis=(2, 4)) + 0.5)
        grey = means @ [0.299, 0.587, 0.114]
        parts = [grey, CHROMA_WEIGHT * (means[..., 0] - grey), CHROMA_WEIGHT * (means[..., 2] - grey)]
        flat, most = np.sqrt(3) * np.stack(parts, axis=-1).reshape(60, -1), MOST_DIFFERENCE_OF_SMALL
    distance = np.sqrt(((flat[:, None] - flat) ** 2).mean(axis=2))
    contrast = flat.std(axis=1) if len(shape) == 2 else grey.reshape(60, -1).std(axis=1)
    limit = np.minimum(most, MOST_RELATIVE * np.maximum.outer(contrast, contrast))
    near = distance <= limit
    found = originals(pool(images))
    assert 12 <= len(np.unique(found)) < 60
    kept = np.unique(found)
    np.testing.assert_array_equal(near[np.ix_(kept, kept)], np.eye(len(kept), dtype=bool))
    assert near[np.arange(60), found].all()
    np.testing.assert_array_equal(found[kept], kept)


def test_exact_copies_are_counted_apart():
    found = Copies.find(pool(FACES, FACES[:3], np.minimum(FACES[3:8], 254) + 1))
    assert (len(found), found.exact) == (8, 3)
    again = Copies.from_dict(found.to_dict())
    np.testing.assert_array_equal(again.copies, found.copies)
    np.testing.assert_array_equal(again.originals, found.originals)
    assert again.exact == 3


def test_no_images_have_no_copies():
    assert not len(Copies.find(ArrayPool(np.empty((0, 8, 8), np.uint8), np.empty(0, np.int64))))
