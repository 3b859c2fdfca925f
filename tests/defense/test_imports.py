"""What the import of the defence brings with it, and that it compiles where nothing can be kept on disk."""

from __future__ import annotations

import subprocess
import sys

import numba
import pytest

from mifsim.defense import compiled

HEAVY = {"numba", "cv2", "ray", "tensorflow", "keras", "skimage", "pandas", "pyarrow", "pydantic", "scipy"}


def loaded_after(code):
    """Return the top-level modules that a fresh interpreter has loaded after the code."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_the_import_is_light():
    assert loaded_after("import mifsim.defense") & HEAVY == set()


def test_the_first_guard_loads_what_it_needs_and_no_more():
    code = "from mifsim.defense import NoDefense; import numpy; NoDefense().check(numpy.zeros((8, 8)))"
    assert loaded_after(code) & (HEAVY - {"scipy"}) == {"numba", "cv2"}


@pytest.mark.parametrize("kind", ["blacklight", "osd-l2", "prada"])
def test_a_published_detector_needs_numba_and_opencv_and_no_more(kind):
    code = f"from mifsim.defense import read_config; config = read_config({{'kind': {kind!r}}})"
    assert loaded_after(code) & HEAVY == set()
    code += "; import numpy; detector = config.detector(); detector.check(numpy.zeros((8, 8)))"
    assert loaded_after(code) & (HEAVY - {"scipy"}) == {"numba", "cv2"}


def test_without_a_place_for_machine_code_each_process_compiles(monkeypatch):
    def nowhere(*functions, cache=False, **options):  # numba's own modules use @njit too, and may be imported only now
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*functions, **options)

    real = numba.njit
    monkeypatch.setattr(numba, "njit", nowhere)
    assert compiled.entry(lambda x: x + 1)(2) == 3


@pytest.mark.parametrize("decorator", [compiled.entry, compiled.inner])
def test_no_fast_math_and_no_lock(decorator):
    options = decorator(lambda x: x).targetoptions
    assert options["nogil"]
    assert not options.get("fastmath", False)
