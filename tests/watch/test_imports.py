"""The statistics of the watch need numpy only."""

from __future__ import annotations

import subprocess
import sys


def test_the_watch_loads_no_heavy_module() -> None:
    modules = ("coverage", "evidence", "findings", "monitor", "near_misses", "promise", "sessions")
    imports = ", ".join(f"mifsim.watch.{name}" for name in modules)
    code = f"import {imports}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not loaded & {"tensorflow", "keras", "ray", "pandas", "pyarrow", "scipy", "cv2", "numba", "pydantic"}
    assert "numpy" in loaded
