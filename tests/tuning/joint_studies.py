"""Small studies of several detectors that are calibrated jointly."""

from __future__ import annotations

from typing import Any

from mifsim.study import Study
from tests.tuning.kind_studies import REACHABLE
from tests.tuning.studies import (
    tiny_study,
)

OF: list[dict[str, Any]] = [
    {"kind": "nearest", "space": {"memory": [10], "radius": {"min": 1.0, "max": 8.0}, "limit": {"max": 8}}},
    {"kind": "quota", "space": {"queries": {"min": 3, "max": 30}}},
]


def joint_study(of: list[dict[str, Any]] = OF, tuning: dict[str, Any] | None = None, **changes: Any) -> Study:
    return tiny_study(
        **{"tuning": {"kind": "any-of", "of": of, "trials": 16, **REACHABLE, **(tuning or {})}, **changes}
    )
