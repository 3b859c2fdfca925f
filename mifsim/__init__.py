"""mifsim: simulate and calibrate query filters that stop model-inversion attacks on image classifiers.

Examples
--------
>>> import numpy as np
>>> from mifsim import FilterConfig, QueryFilter, Verdict
>>> guard = QueryFilter(FilterConfig(t_ssim=0.999, t_hash=1e-3, n_b=10, l_sp=2))
>>> image = np.zeros((28, 28), dtype=np.float32)
>>> [guard.check(image).name for _ in range(3)]
['SAFE', 'SAFE', 'UNSAFE']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mifsim._version import __version__
from mifsim.defense import FilterConfig, InvalidImage, QueryFilter, Verdict, simple_hash, ssim

if TYPE_CHECKING:
    from mifsim.run.simulate import simulate
    from mifsim.study import Study

__all__ = [
    "FilterConfig",
    "InvalidImage",
    "QueryFilter",
    "Study",
    "Verdict",
    "__version__",
    "simple_hash",
    "simulate",
    "ssim",
]


def __getattr__(name: str) -> Any:
    """Load what needs more than numpy only when it is asked for."""
    if name == "Study":
        from mifsim.study import Study

        return Study
    if name == "simulate":
        from mifsim.run.simulate import simulate

        return simulate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
