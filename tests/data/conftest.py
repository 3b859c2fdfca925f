"""Empty cache folders for the tests of data sets."""

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Give every test empty cache folders; the user's cache and keras' downloads stay unchanged."""
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "cache"
