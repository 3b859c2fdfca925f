"""Studies and traces for the tests of kinds of detectors other than the paper's filter."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mifsim.defense import RecordedSessions
from mifsim.study import Study
from tests.tuning.kinds import BrightConfig, TenthsConfig
from tests.tuning.sample_traces import hashes_of, random_traces
from tests.tuning.studies import FormulaBackend, digits, formula_victim, tiny_study
from tuning.trace_loading import load
from tuning.tracedata import TraceSet
from tuning.traces import record

REACHABLE = {"false_positive_limit": 0.6, "confidence": 0.8, "false_positive_budget": 0.9}
"""Limits that a handful of sessions can certify."""
ALLOWANCES = (1, 2, 3, 5, 8, 9, 25, 26)


def kind_study(kind: str, filters: list[dict[str, Any]] | None = None, **changes: Any) -> Study:
    """Return the tiny study, which calibrates the given kind and has further users that also send invalid images."""
    table = {
        "tuning": {"kind": kind, "trials": 12, **REACHABLE},
        "filters": filters or [],
        "users": [*tiny_study().to_toml()["users"], {"user": "spoilt", "sessions": 12}],
    }
    return tiny_study(**{**table, **changes})


def record_traces(study: Study, folder: Path) -> TraceSet:
    """Record the sessions of a study; return their traces."""
    return load(record(study, digits(study), formula_victim(folder), FormulaBackend()).path, study)


def with_brightness(traces: TraceSet) -> TraceSet:
    """Return the traces with a recording of brightness that contains the values of their hashes."""
    brightness = RecordedSessions(traces.offsets, traces.valid, {"mean": hashes_of(traces)})
    specs = [config.recording_spec() for config in (BrightConfig(0.5, 1), TenthsConfig(6, 1))]
    return replace(traces, recordings=dict.fromkeys(specs, brightness))


def random_brightness_traces(seed: int) -> TraceSet:
    """Return random traces with recorded brightness that contain an attack session and an honest session."""
    return next(
        with_brightness(traces)
        for extra in itertools.count()
        if (traces := random_traces(np.random.default_rng([seed, extra]))).attack_groups and traces.honest_groups
    )
