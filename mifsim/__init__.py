"""Simulate and calibrate detectors that stop model-inversion attacks on image classifiers.

Examples
--------
>>> import numpy as np
>>> from mifsim import FilterConfig, QueryFilter, Verdict
>>> detector = QueryFilter(FilterConfig(t_ssim=0.999, t_hash=1e-3, n_b=10, l_sp=2))
>>> image = np.zeros((28, 28), dtype=np.float32)
>>> [detector.check(image).name for _ in range(3)]
['SAFE', 'SAFE', 'UNSAFE']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mifsim._version import __version__
from mifsim.defense import (
    Detector,
    DetectorConfig,
    FilterConfig,
    InvalidImage,
    QueryFilter,
    Verdict,
    load_config,
    simple_hash,
    ssim,
)
from mifsim.plugins import register

if TYPE_CHECKING:
    from mifsim.api import Run, matrix, read_run, simulate, tune
    from mifsim.clients import Attacker, Evasion, User
    from mifsim.data import load_data
    from mifsim.study import Study

__all__ = [
    "Attacker",
    "Detector",
    "DetectorConfig",
    "Evasion",
    "FilterConfig",
    "InvalidImage",
    "QueryFilter",
    "Run",
    "Study",
    "User",
    "Verdict",
    "__version__",
    "load_config",
    "load_data",
    "matrix",
    "read_run",
    "register",
    "simple_hash",
    "simulate",
    "ssim",
    "tune",
]

_LAZY = {
    "Attacker": "mifsim.clients",
    "Evasion": "mifsim.clients",
    "User": "mifsim.clients",
    "Study": "mifsim.study",
    "load_data": "mifsim.data",
    "Run": "mifsim.api",
    "matrix": "mifsim.api",
    "read_run": "mifsim.api",
    "simulate": "mifsim.api",
    "tune": "mifsim.api",
}
"""Public names that need more than numpy, with their modules, which are imported on first access."""


def __getattr__(name: str) -> Any:
    """Import a name of `_LAZY` on first access."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
