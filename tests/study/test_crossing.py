"""The matrix of a study: every attack with every row of evasions, and the same budget for the attack itself."""

from __future__ import annotations

from typing import Any

import pytest

from mifsim.defense import FilterConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import StudyError
from mifsim.study import Filter, Study

CONFIG = FilterConfig(0.9, 0.01, 2, 3)


def study(rows: list[Any], **sections: Any) -> Study:
    """Return a study of two attacks and one workload, with these rows of evasions."""
    attacks = [
        {"attack": "mi-face", "budget_queries": 100},
        {"attack": "mi-face", "name": "bent", "evasions": [{"noise": 0.1}], "budget_queries": 10},
    ]
    users = [{"user": "independent", "sessions": 3}]
    return Study.parse({"name": "m", "matrix": {"evasions": rows}, "attacks": attacks, "users": users, **sections})


def test_every_attack_is_combined_with_every_row_of_evasions() -> None:
    crossed = study(
        [[], [{"decoys": 4}], [{"interleave": 3}, {"decoys": 1}, {"rotate": {}}], [{"probe": {}}]]
    ).crossed()
    assert [(attack.name, attack.budget_queries) for attack in crossed.attacks] == [
        ("mi-face", 100),
        ("mi-face+decoys", 500),  # four decoys for each query of the attack
        ("mi-face+interleave+decoys+rotate", 600),  # three attacks, with one decoy for each query
        ("mi-face+probe", 280),  # starts with six probing sessions of thirty queries
        ("bent", 10),
        ("bent+decoys", 50),
        ("bent+interleave+decoys+rotate", 60),
        ("bent+probe", 190),
    ]
    assert [len(attack.evasions) for attack in crossed.attacks] == [0, 1, 3, 1, 1, 2, 4, 2]
    assert crossed.users == study([[]]).users


def test_rows_of_the_same_evasions_have_names_with_their_arguments() -> None:
    rows = [
        [{"decoys": 10}], [{"decoys": 20}], [{"decoys": 50}], [{"morph": 0.3}], [{"accounts": 3}],
        [{"accounts": {"accounts": 5, "order": "one-after-another"}}], [{"decoys": 10}, {"rotate": {"sessions": 2}}],
        [{"decoys": 20}, {"rotate": {}}],
    ]  # fmt: skip
    crossed = study(rows).crossed()
    assert [attack.name for attack in crossed.attacks[:8]] == [
        "mi-face+decoys",
        "mi-face+decoys 20",
        "mi-face+decoys 50",
        "mi-face+morph",
        "mi-face+accounts",
        "mi-face+accounts 5 order one-after-another",
        "mi-face+decoys+rotate sessions 2",
        "mi-face+decoys 20+rotate",
    ]
    assert [attack.budget_queries for attack in crossed.attacks[:6]] == [1100, 2100, 5100, 100, 100, 100]
    assert Study.parse(crossed.to_toml()).attacks == crossed.attacks
    with pytest.raises(
        StudyError, match=r"two rows give attacks of the same name: bent\+decoys 20, mi-face\+decoys 20"
    ):
        study([[{"decoys": 20}], [{"decoys": 20}]]).crossed()


def test_crossing_adds_an_undefended_filter_unless_the_study_has_one() -> None:
    added = [Filter(name="calibrated", config=CONFIG)]
    own_filters = [{"name": "own", "t_ssim": 0.9, "t_hash": 0.1, "n_b": 1, "l_sp": 1}]
    assert [item.name for item in study([[]], filters=own_filters).crossed(added).filters] == [
        "calibrated",
        "own",
        "no filter",
    ]
    undefended = [{"name": "open door", "none": True}]
    assert [item.name for item in study([[]], filters=undefended).crossed(added).filters] == ["calibrated", "open door"]
    # A filter without t_ssim is also a detector: only the kind none is undefended.
    quota, last = study([[]]).crossed([Filter(name="none of these", config=QuotaConfig(3))]).filters
    assert (quota.undefended, last.name, last.undefended) == (False, "no filter", True)


def test_the_matrix_of_a_study_survives_a_round_trip_through_toml() -> None:
    original = study([[], [{"decoys": 4}]])
    assert Study.parse(original.to_toml()).matrix == original.matrix
    read_back = Study.parse(original.crossed().to_toml())
    assert read_back.attacks == original.crossed().attacks
    assert read_back.matrix.evasions == [[]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[], []], "two rows give attacks of the same name: bent, mi-face"),
        ([[{"decoy": 1}]], "no evasion is called 'decoy'"),
        ([{"decoys": 1}], "must be a list of tables"),
        ("all", "must be a list of rows"),
    ],
)
def test_rows_of_evasions_that_cannot_be_crossed_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        study(rows).crossed()


def test_names_of_filters_must_differ() -> None:
    filters = [{"name": "own", "t_ssim": 0.9, "t_hash": 0.1, "n_b": 1, "l_sp": 1}]
    with pytest.raises(StudyError, match="--filter: two filters have the same name: own"):
        study([[]], filters=filters).crossed([Filter(name="own", config=CONFIG)])
