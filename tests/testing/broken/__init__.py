"""Test objects for the conformance suites: sound ones, and others with one fault each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHANGES: dict[str, Mapping[str, Any]] = {
    "Walk": {"step": 0.2},
    "StepWithoutEffect": {"step": 0.2},
    "Shuffled": {"length": 3},
    "Dimmed": {"factor": 0.2},
}
"""For some objects, values of fields that should each change its behaviour."""
