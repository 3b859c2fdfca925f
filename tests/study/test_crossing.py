"""A matrix: every attack with every row of evasions, on equal terms."""

from __future__ import annotations

from typing import Any

import pytest

from mifsim.defense import FilterConfig
from mifsim.defense.quota import QuotaConfig
from mifsim.errors import StudyError
from mifsim.study import Filter, Study

CONFIG = FilterConfig(0.9, 0.01, 2, 3)


def study(rows: list[Any], **more: Any) -> Study:
    attacks = [
        {"attack": "mi-face", "budget_queries": 100},
        {"attack": "mi-face", "name": "bent", "evasions": [{"noise": 0.1}], "budget_queries": 10},
    ]
    users = [{"user": "independent", "sessions": 3}]
    return Study.parse({"name": "m", "matrix": {"evasions": rows}, "attacks": attacks, "users": users, **more})


def test_every_attack_meets_every_row() -> None:
    crossed = study(
        [[], [{"decoys": 4}], [{"interleave": 3}, {"decoys": 1}, {"rotate": {}}], [{"probe": {}}]]
    ).crossed()
    assert [(attack.name, attack.budget_queries) for attack in crossed.attacks] == [
        ("mi-face", 100),
        ("mi-face+decoys", 500),  # four for each of its own
        ("mi-face+interleave+decoys+rotate", 600),  # three attacks, a decoy after each query
        ("mi-face+probe", 280),  # six sessions of thirty queries come first
        ("bent", 10),
        ("bent+decoys", 50),
        ("bent+interleave+decoys+rotate", 60),
        ("bent+probe", 190),
    ]
    assert [len(attack.evasions) for attack in crossed.attacks] == [0, 1, 3, 1, 1, 2, 4, 2]
    assert crossed.users == study([[]]).users


def test_rows_of_the_same_evasions_are_told_apart_by_their_arguments() -> None:
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


def test_there_is_always_something_undefended() -> None:
    given = [Filter(name="calibrated", config=CONFIG)]
    others = [{"name": "own", "t_ssim": 0.9, "t_hash": 0.1, "n_b": 1, "l_sp": 1}]
    assert [item.name for item in study([[]], filters=others).crossed(given).filters] == [
        "calibrated",
        "own",
        "no filter",
    ]
    bare = [{"name": "open door", "none": True}]
    assert [item.name for item in study([[]], filters=bare).crossed(given).filters] == ["calibrated", "open door"]
    # What has no t_ssim is a detector all the same: nothing but the kind none is undefended.
    quota, nothing = study([[]]).crossed([Filter(name="none of these", config=QuotaConfig(3))]).filters
    assert (quota.undefended, nothing.name, nothing.undefended) == (False, "no filter", True)


def test_a_study_keeps_its_matrix_in_a_file() -> None:
    whole = study([[], [{"decoys": 4}]])
    assert Study.parse(whole.to_toml()).matrix == whole.matrix
    again = Study.parse(whole.crossed().to_toml())
    assert again.attacks == whole.crossed().attacks
    assert again.matrix.evasions == [[]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[], []], "two rows give attacks of the same name: bent, mi-face"),
        ([[{"decoy": 1}]], "no evasion is called 'decoy'"),
        ([{"decoys": 1}], "must be a list of tables"),
        ("all", "must be a list of rows"),
    ],
)
def test_rows_that_cannot_be_crossed_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        study(rows).crossed()


def test_names_of_filters_must_differ() -> None:
    given = [{"name": "own", "t_ssim": 0.9, "t_hash": 0.1, "n_b": 1, "l_sp": 1}]
    with pytest.raises(StudyError, match="--filter: two filters have the same name: own"):
        study([[]], filters=given).crossed([Filter(name="own", config=CONFIG)])
