"""Configuration of data sets: accepted keys and values."""

from importlib import import_module

import pytest
from pydantic import ValidationError

from mifsim.data import DATASETS, DataConfig
from mifsim.data.config import source_of


@pytest.mark.parametrize("name", DATASETS)
def test_every_source_names_an_existing_function(name):
    module, function = source_of(name).load.split(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"set": "cifar"}, "no data set is called 'cifar' .accepted: mnist-5k, mnist, fashion-mnist, celeba"),
        ({"set": "mnist-5k", "folder": "x"}, "does not read 'folder'; sets that do: mnist, fashion-mnist"),
        ({"set": "mnist", "size": 28}, "'mnist' does not read 'size'; sets that do: folder"),
        ({"set": "faces", "colour": "rgb"}, "'faces' does not read 'colour'; sets that do: folder"),
        ({"set": "folder", "folder": "x", "color": "rgb"}, "color: unknown key; it is now spelled 'colour'"),
        ({"set": "folder", "folder": "x", "colour": "gray"}, "colour = 'gray': is now spelled 'grey'"),
        ({"fit": "crop"}, "'cut', 'squash' or 'pad'"),
        ({"background": 256}, "less than or equal to 255"),
        ({"background": [0, 0]}, "Field required"),
        ({"set": "celeba"}, "data set 'celeba' needs 'folder'"),
        ({"set": "folder"}, "data set 'folder' needs 'folder'"),
        ({"set": "folder", "folder": "x", "size": 2}, "greater than or equal to 8"),
        ({"set": "folder", "folder": "x", "size": True}, "size"),
        ({"set": "folder", "folder": "x", "colour": "cmyk"}, "'grey' or 'rgb'"),
        ({"images_per_class": 0}, "greater than or equal to 8"),
        ({"split_seed": -1}, "greater than or equal to 0"),
        ({"sett": "mnist"}, "Extra inputs"),
    ],
)
def test_keys_and_values_that_a_set_does_not_accept_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**keys)


def test_a_single_size_means_a_square():
    assert DataConfig(set="folder", folder="x", size=32).size == (32, 32)
    assert DataConfig(set="folder", folder="x", size=[16, 24]).size == (16, 24)
