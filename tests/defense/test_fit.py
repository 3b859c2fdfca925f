"""Fits: their files, their digests, and configurations that name them."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from mifsim.defense import load_config
from mifsim.defense.evidence.config import EvidenceConfig
from mifsim.defense.fit import FIT_VERSION, Fit, find_fit, registered_fits
from mifsim.defense.fitted import load_fit
from mifsim.defense.server_images import fit_server_images, image_hash
from mifsim.errors import ConfigError
from mifsim.testing.streams import fitted

SHAPE = (8, 8)


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """Each test starts with an empty registry."""
    monkeypatch.setattr("mifsim.defense.fit._fits", {})


def small_fit(**changes):
    arrays = {"mean": np.arange(4, dtype=np.float32), "axes": np.eye(4, dtype=np.float32), **changes}
    return Fit({"data": "test", "shape": [2, 2]}, arrays)


@pytest.fixture
def saved(tmp_path):
    """A saved configuration; its fit is no longer registered in this process."""
    config = fitted(EvidenceConfig(noisy_limit=2.0), SHAPE)
    config.save(tmp_path / "filter.toml")
    from mifsim.defense import fit

    fit._fits.clear()
    return config, tmp_path / "filter.toml", tmp_path / f"fit-{config.fit}.npz"


def test_equal_arrays_and_facts_have_equal_digests():
    assert small_fit().digest == small_fit().digest
    assert small_fit(mean=np.zeros(4, np.float32)).digest != small_fit().digest
    assert small_fit(mean=np.arange(4, dtype=np.float64)).digest != small_fit().digest
    assert Fit({"data": "other", "shape": [2, 2]}, small_fit().arrays).digest != small_fit().digest


def test_a_fit_is_the_same_after_a_file_and_in_another_process():
    fit = small_fit()
    again = Fit.from_bytes(fit.to_bytes(), "file", fit.digest)
    copy = pickle.loads(pickle.dumps(fit))
    for other in (again, copy):
        assert other.digest == fit.digest
        assert dict(other.facts) == dict(fit.facts)
        assert all(np.array_equal(other.arrays[name], fit.arrays[name]) for name in fit.arrays)
        assert not any(array.flags.writeable for array in other.arrays.values())
    assert fit.to_bytes() == small_fit().to_bytes()  # equal fits have equal files


def test_a_configuration_and_its_fit_are_read_together(saved):
    config, file, _ = saved
    assert load_config(file) == config
    assert find_fit(config.fit) is not None
    assert load_config(file).detector().check(np.full(SHAPE, 0.5, np.float32)).name == "SAFE"


def test_a_missing_file_is_reported(saved):
    config, file, npz = saved
    npz.unlink()
    with pytest.raises(ConfigError, match=rf"fit-{config.fit}.npz: cannot be read: .*; evidence needs these fitted"):
        load_config(file)


def test_an_altered_file_is_reported(saved):
    config, file, npz = saved
    npz.write_bytes(small_fit().to_bytes())
    with pytest.raises(ConfigError, match=rf"its content has digest {small_fit().digest}, expected {config.fit}"):
        load_config(file)


def test_a_damaged_file_is_reported(saved):
    _, file, npz = saved
    npz.write_bytes(npz.read_bytes()[:100])
    with pytest.raises(ConfigError, match=rf"{npz.name}: not a file of fitted arrays"):
        load_config(file)


def test_a_file_of_another_version_is_reported(saved):
    _, file, npz = saved
    content = io.BytesIO()
    np.savez(content, header=np.array(json.dumps({"version": FIT_VERSION + 1, "facts": {}})))
    npz.write_bytes(content.getvalue())
    with pytest.raises(ConfigError, match=rf"version = {FIT_VERSION + 1}: not supported"):
        load_config(file)


def test_python_objects_in_a_file_are_not_unpickled(saved):
    _, file, npz = saved
    content = io.BytesIO()
    header = np.array(json.dumps({"version": FIT_VERSION, "facts": {}}))
    np.savez(content, allow_pickle=True, header=header, mean=np.array([{"a": 1}], dtype=object))
    npz.write_bytes(content.getvalue())
    with pytest.raises(ConfigError, match=r"not a file of fitted arrays: .*allow_pickle"):
        load_config(file)


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(saved, monkeypatch):
    _, file, npz = saved
    monkeypatch.setattr("mifsim.defense.fit.MAX_FIT_BYTES", 10_000)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mean.npy", bytes(20_000))
    npz.write_bytes(content.getvalue())
    with pytest.raises(ConfigError, match=r"20,000 bytes once unpacked \(accepted: at most 10,000\)"):
        load_config(file)


def test_configurations_without_a_fit_need_no_file(tmp_path):
    load_fit(EvidenceConfig(noisy_limit=1.0), tmp_path)
    assert registered_fits() == ()


def test_principal_components_equal_those_of_numpys_svd():
    rng = np.random.default_rng(0)
    images = rng.random((150, 6, 5), dtype=np.float32)
    for count, shape in ((150, (6, 5)), (110, (15, 10))):  # more images than pixels, and fewer
        images = rng.random((count, *shape), dtype=np.float32)
        fit = fit_server_images(images, np.arange(count, dtype=np.uint64), {})
        rows = images.reshape(count, -1).astype(np.float64)
        centred = rows - rows.mean(axis=0)
        _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
        size = fit.arrays["deviations"].size
        assert size == min(60, count - 1, rows.shape[1])
        np.testing.assert_allclose(fit.arrays["mean"], rows.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(fit.arrays["deviations"], singular[:size] / np.sqrt(count - 1), rtol=1e-5)
        products = np.abs((vectors[:size] * fit.arrays["axes"].T).sum(axis=1))
        np.testing.assert_allclose(products, 1.0, atol=1e-4)  # the sign of an axis is arbitrary


def test_too_few_or_equal_images_are_refused():
    with pytest.raises(ConfigError, match="needs at least 100 images, got 99"):
        fit_server_images(np.zeros((99, 4, 4), np.float32), np.arange(99, dtype=np.uint64), {})
    with pytest.raises(ConfigError, match="needs different images, got 100 equal ones"):
        fit_server_images(np.zeros((100, 4, 4), np.float32), np.arange(100, dtype=np.uint64), {})


def test_equal_images_have_equal_hashes_and_others_do_not():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert image_hash(image) == image_hash(image.copy())
    assert image_hash(image) != image_hash(image.reshape(4, 3))
    assert image_hash(image) != image_hash(image + np.uint8(1))
