"""The data set `faces`: classes, reproducibility and variety of the rendered faces."""

import numpy as np
import pytest

from mifsim.data import DataConfig, load_data
from mifsim.data.celeba import CLASSES
from mifsim.data.face_rendering import render


def load(count=12, seed=0):
    return load_data(DataConfig(set="faces", images_per_class=count, split_seed=seed))


def pixels(data):
    return {
        np.rint(image * 255).astype(np.uint8).tobytes()
        for pool in data.subsets.values()
        for image in pool.images(np.arange(len(pool)))
    }


def test_faces_have_the_four_classes_of_celeba_and_are_called_rendered():
    data = load()
    assert data.class_names == CLASSES
    assert data.shape == (64, 64, 3)
    assert "rendered" in data.name
    assert "Rendered" in data.note
    assert sum(len(pool) for pool in data.subsets.values()) == 4 * 12


def test_a_face_does_not_depend_on_the_number_of_faces():
    few, many = pixels(load(10)), pixels(load(13))
    assert len(few) == 40
    assert few < many
    assert pixels(load(10, seed=5)) == few  # the seed of the split does not change the faces


@pytest.mark.parametrize("label", range(4))
def test_a_face_depends_on_its_random_generator_alone(label):
    first, same, other = (render(label, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first.astype(int) - other).mean() > 5


def test_faces_vary_in_light_position_and_colour():
    faces = np.stack([render(0, np.random.default_rng(seed)) for seed in range(40)]).astype(float)
    assert faces.mean(axis=(1, 2, 3)).std() > 10  # light and background
    assert faces[:, 28:36, 28:36].mean(axis=(1, 2)).std(axis=0).min() > 15  # skin
    assert faces.std(axis=0).min() > 5  # no pixel is the same in all faces
