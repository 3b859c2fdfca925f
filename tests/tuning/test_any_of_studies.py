"""Studies of several detectors that are calibrated jointly: their files, and members that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mifsim.defense.any_of import AnyOfConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import StudyError
from mifsim.study import Study
from tests.tuning.joint_studies import OF, joint_study
from tests.tuning.studies import (
    tiny_study,
)


def test_a_study_with_members_survives_a_file(tmp_path: Path) -> None:
    study = joint_study(
        tuning={"scope": "client", "view": {"size": 14}},
        filters=[{"name": "both", "kind": "any-of", "of": [{"kind": "quota", "queries": n} for n in (5, 9)]}],
        bench={"detectors": [{"name": "pair", "kind": "any-of", "of": OF}]},
    )
    study.save(tmp_path / "study.toml")
    again = Study.load(tmp_path / "study.toml")
    assert again == study
    assert again.fingerprint == study.fingerprint
    assert again.tuning.search_space == study.tuning.search_space
    assert again.filters[0].config == AnyOfConfig(of=(QuotaConfig(5), QuotaConfig(9)))
    changed = Study.load(tmp_path / "study.toml", ["tuning.of.1.space.queries.max=20", "filters.0.of.1.queries=7"])
    assert changed.tuning.search_space.bounds["quota.queries"] == (3, 20)
    assert changed.filters[0].config == AnyOfConfig(of=(QuotaConfig(5), QuotaConfig(7)))


def test_a_study_without_members_is_written_as_before() -> None:
    plain = tiny_study(bench={"detectors": [{"name": "a", "kind": "quota"}]}).to_toml()
    assert "of" not in plain["tuning"]
    assert "of" not in plain["bench"]["detectors"][0]


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"of": []}, r"tuning\.of: 0 given; 'any-of' needs at least two members"),
        ({"of": OF[:1]}, r"tuning\.of: 1 given; 'any-of' needs at least two members"),
        ({"of": [OF[0], {"kind": "qota"}]}, r"tuning\.of\.1\.kind = 'qota': .*did you mean 'quota'"),
        ({"of": [OF[0], {"space": {}}]}, r"tuning\.of\.1\.kind: missing"),
        ({"of": [OF[0], {"kind": "quota", "spaces": {}}]}, r"tuning\.of\.1\.spaces: unknown key; did you mean 'space'"),
        (
            {"of": [OF[0], {"kind": "quota", "space": {"queries": {"min": 0}}}]},
            r"tuning\.of\.1\.space\.queries\.min = 0: must be at least 1",
        ),
        (
            {"of": [OF[0], {"kind": "quota", "space": {"n_b": {}}}]},
            r"tuning\.of\.1\.space\.n_b: 'quota' has no such parameter",
        ),
        ({"of": [OF[0], {"kind": "none"}]}, r"tuning\.of\.1\.kind = 'none': it never blocks"),
        ({"of": [OF[0], {"kind": "any-of"}]}, r"tuning\.of\.1\.kind = 'any-of': a member cannot have members"),
        ({"of": [OF[0], {"kind": "quota", "view": 3}]}, r"tuning\.of\.1\.view"),
        ({"space": {"queries": {}}}, r"tuning\.space = .*: belongs to a member"),
        ({"kind": "quota"}, r"tuning\.of: only the kind 'any-of' has members \(kind = 'quota'\)"),
        ({"grid": {"quota.queries": 4}}, r"tuning\.grid\.quota\.queries: .*'any-of' has no exhaustive search"),
    ],
)
def test_invalid_members_are_refused(tuning: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        joint_study(tuning=tuning)


def test_the_comparison_names_the_detector_and_the_member() -> None:
    detectors = [{"name": "pair", "kind": "any-of", "of": [OF[0], {"kind": "quota", "space": {"querys": {}}}]}]
    with pytest.raises(StudyError, match=r"'pair': of\.1\.space\.querys: 'quota' has no such .*'queries'"):
        joint_study(bench={"detectors": detectors})
    with pytest.raises(StudyError, match=r"filters\.0.*: of\.1\.queries = 0: must be a whole number"):
        joint_study(filters=[{"name": "a", "kind": "any-of", "of": [{"kind": "quota", "queries": n} for n in (1, 0)]}])
