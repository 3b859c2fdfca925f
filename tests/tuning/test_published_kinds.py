"""The detectors of the literature on real sessions: recorded, replayed, run live and calibrated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mifsim.defense.kinds import load_config
from mifsim.study import Study
from tests.tuning.studies import FormulaBackend, assert_live_matches_replay, digits, formula_victim, tiny_study
from tuning.trace_loading import load
from tuning.traces import record

REACHABLE = {"false_positive_limit": 0.6, "confidence": 0.8, "false_positive_budget": 0.9}
"""With a handful of sessions."""

FILTERS: list[dict[str, Any]] = [
    {"name": "blacklight", "kind": "blacklight"},
    {"name": "blacklight lenient", "kind": "blacklight", "threshold": 40, "limit": 3, "memory": 4},
    {"name": "blacklight other salt", "kind": "blacklight", "window": 50, "stride": 5, "salt": 9, "scope": "client"},
    {"name": "osd-l2", "kind": "osd-l2", "k": 3, "threshold": 4.0},
    {"name": "osd-l2 lenient", "kind": "osd-l2", "k": 2, "threshold": 6.0, "limit": 3, "memory": 5},
    {"name": "osd-l2 as published", "kind": "osd-l2"},
    {"name": "osd-l2 smaller", "kind": "osd-l2", "k": 3, "threshold": 1.0, "view": {"size": 7}},
    {"name": "prada", "kind": "prada", "min_distances": 8, "delta": 0.9},
    {"name": "prada lenient", "kind": "prada", "min_distances": 3, "delta": 0.99, "limit": 2, "scope": "client"},
    {"name": "prada as published", "kind": "prada"},
]


def study_of(kind: str, space: dict[str, Any], filters: list[dict[str, Any]]) -> Study:
    return tiny_study(
        tuning={"kind": kind, "trials": 12, "space": space, **REACHABLE},
        filters=filters,
        attacks=[{**attack, "budget_queries": 45} for attack in tiny_study().to_toml()["attacks"]],
        users=[*tiny_study().to_toml()["users"], {"user": "spoilt", "sessions": 12}],
    )


@pytest.mark.usefixtures("invalid_image_users")
def test_live_sessions_do_what_the_replay_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through tables and processes, for users with invalid images too, one recording for each way to hash and view."""
    monkeypatch.setenv("MIFSIM_CACHE_DIR", str(tmp_path / "cache"))
    study = study_of("blacklight", {}, FILTERS)
    traces = load(record(study, digits(study), formula_victim(tmp_path), FormulaBackend()).path, study)
    expected = assert_live_matches_replay(study, traces, tmp_path / "live")
    blocked = {item.name: 0 for item in study.filters}
    for name, query in expected.items():
        blocked[name.partition("@")[2]] += query is not None
    for name in ("blacklight", "blacklight lenient", "osd-l2", "osd-l2 lenient", "prada", "prada lenient"):
        assert 0 < blocked[name] < traces.sessions, name
    assert blocked["osd-l2 as published"] == blocked["prada as published"] == 0  # no session has 51 queries


@pytest.mark.usefixtures("invalid_image_users")
@pytest.mark.parametrize(
    ("kind", "space"),
    [
        ("blacklight", {"salt": 3, "memory": [5, 100], "threshold": {"min": 10}}),
        ("osd-l2", {"k": [1, 3], "memory": 20}),
        ("osd-pca", {"k": [1, 3], "memory": 20}),
        ("prada", {"min_distances": {"min": 3, "max": 12}}),
    ],
)
def test_each_is_searched_certified_and_confirmed(
    calibrate: Callable[..., Path], kind: str, space: dict[str, Any]
) -> None:
    run = calibrate(study_of(kind, space, []))
    found = load_config(run / "filter.toml")
    assert found.kind == kind
    assert kind != "blacklight" or found.to_dict()["salt"] == 3
