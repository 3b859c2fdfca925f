"""What the guard loads."""

from __future__ import annotations

import subprocess
import sys


def test_the_guard_needs_neither_tensorflow_nor_ray_nor_pandas() -> None:
    code = (
        "import mifsim.guard.serving, mifsim.guard.workers.supervisor, mifsim.guard.middleware, mifsim.cli, sys\n"
        "import mifsim.guard.serve_config\n"
        "from mifsim.guard.wire import WIRES, wire_class; [wire_class(name) for name in WIRES]\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert (
        loaded & {"tensorflow", "keras", "ray", "pandas", "pyarrow", "sklearn", "skimage", "optuna", "mlxtend"} == set()
    )
    assert {"numba", "aiohttp"} <= loaded


def test_settings_can_be_read_without_the_extra() -> None:
    code = "import sys; from mifsim.guard import GuardConfig; GuardConfig(); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"aiohttp", "uvicorn", "orjson", "prometheus_client", "python_multipart"} & set(loaded)
