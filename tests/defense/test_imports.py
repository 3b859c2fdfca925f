"""Modules that `mifsim.defense` loads, and the compilation of its kernels without a cache on disk."""

from __future__ import annotations

import subprocess
import sys

import numba
import pytest

from mifsim.defense import compiled

HEAVY = {"numba", "cv2", "ray", "tensorflow", "keras", "skimage", "pandas", "pyarrow", "pydantic", "scipy", "sklearn"}


def loaded_after(code):
    """Return the top-level modules that a fresh interpreter has loaded after it ran the code."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_importing_the_defense_loads_no_heavy_module():
    assert loaded_after("import mifsim.defense") & HEAVY == set()


def test_the_first_check_loads_only_numba_and_opencv():
    code = "from mifsim.defense import NoDefense; import numpy; NoDefense().check(numpy.zeros((8, 8)))"
    assert loaded_after(code) & (HEAVY - {"scipy"}) == {"numba", "cv2"}


@pytest.mark.parametrize("kind", ["blacklight", "osd-l2", "prada"])
def test_a_published_detector_needs_numba_and_opencv_and_no_more(kind):
    code = f"from mifsim.defense import read_config; config = read_config({{'kind': {kind!r}}})"
    assert loaded_after(code) & HEAVY == set()
    code += "; import numpy; detector = config.detector(); detector.check(numpy.zeros((8, 8)))"
    assert loaded_after(code) & (HEAVY - {"scipy"}) == {"numba", "cv2"}


def successor(x):
    """Return the next number; compiled functions must be at module level."""
    return x + 1


def test_without_a_writable_cache_each_process_compiles(monkeypatch):
    def njit_without_cache(*functions, cache=False, **options):
        if cache:  # only these calls fail: numba's own modules use @njit without a cache
            raise RuntimeError("cannot cache function: no locator available")
        return original_njit(*functions, **options)

    original_njit = numba.njit
    monkeypatch.setattr(numba, "njit", njit_without_cache)
    assert compiled.entry(successor)(2) == 3


@pytest.mark.parametrize("decorator", [compiled.entry, compiled.inner])
def test_kernels_use_no_fast_math_and_release_the_gil(decorator):
    options = decorator(successor).targetoptions
    assert options["nogil"]
    assert not options.get("fastmath", False)
