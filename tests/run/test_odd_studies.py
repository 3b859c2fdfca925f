"""Simulations of studies with odd clients, images and scopes, and of studies that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mifsim.errors import RunError, StudyError
from mifsim.run import simulate as simulation
from mifsim.run.folder import RunFolder
from mifsim.tables.records import read_table
from tests.registering import add_entry
from tests.small import small_study


def test_a_client_that_raises_ends_only_its_own_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry(monkeypatch, "users", "crashing", "tests.odd_clients:Crashing")
    add_entry(monkeypatch, "users", "odd-images", "tests.odd_clients:OddImages")
    users = [
        {"user": "crashing", "sessions": 2},
        {"user": "odd-images", "sessions": 1},
        {"user": "independent", "sessions": 2, "length": 4},
    ]
    run = simulation.simulate(small_study(users=users, attacks=[]), tmp_path / "run", backend="in-process")
    sessions = read_table(run, "sessions").to_pandas()
    crashed = sessions[sessions["client"] == "crashing"]
    assert crashed["outcome"].eq("failed").all()
    assert crashed["error"].eq("ZeroDivisionError: as it was told to").all()
    assert crashed["queries"].eq(2).all()
    assert sessions.loc[sessions["client"] == "independent", "outcome"].isin(["finished", "blocked"]).all()
    assert RunFolder.open(run).facts["status"] == "complete"


@pytest.mark.parametrize("scope", ["session", "client"])
def test_the_scope_decides_whether_a_detector_outlives_a_session(scope: str, tmp_path: Path) -> None:
    """The attacker leaves each session after two queries and has three identities; the quota is three queries."""
    attack = {"attack": "nes", "space": "pca", "coordinates": 4, "labels": [0], "budget_queries": 30}
    evasions = [{"rotate": {"every": 2, "clients": 3}}]
    filters = [{"name": "quota", "kind": "quota", "queries": 3, "scope": scope}]
    study = small_study(
        attacks=[{**attack, "evasions": evasions}], users=[], filters=filters, leakage={"enabled": False}
    )
    run = simulation.simulate(study, tmp_path / "run", backend="in-process")
    sessions = read_table(run, "sessions").to_pandas()
    sessions = sessions.iloc[sessions["session_id"].str.split("#").str[1].fillna("1").astype(int).argsort()]
    found = list(zip(sessions["client_number"], sessions["outcome"], sessions["queries"], strict=True))
    if scope == "session":
        assert found == [(1, "finished", 2)] * 14 + [(1, "exhausted", 2)]
        return
    # For each identity: a session that the attacker leaves, one blocked at the fourth query, one refused at once.
    assert found == [
        (number, outcome, queries)
        for number in (1, 2, 3)
        for outcome, queries in (("finished", 2), ("blocked", 2), ("blocked", 1))
    ]


def test_invalid_images_are_counted_and_refused_without_changing_the_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_entry(monkeypatch, "users", "odd-images", "tests.odd_clients:OddImages")
    users = [{"user": "odd-images", "sessions": 1}]
    for transport in ("float32", "uint8", "jpeg-90"):
        study = small_study(users=users, attacks=[], server={"transport": transport})
        run = simulation.simulate(study, tmp_path / transport, backend="in-process")
        rows = read_table(run, "queries").to_pandas()
        third = rows[rows["session_id"] == "odd-images/0@third"]
        # A valid image, eight invalid ones, then the valid one three times more: the fourth match blocks.
        assert third["verdict"].tolist() == ["safe"] + ["invalid"] * 8 + ["safe", "safe", "unsafe"]
        assert third["suspicious_count"].tolist() == [0] * 9 + [1, 3, 4]


def test_invalid_input_leaves_no_partial_run(tmp_path: Path) -> None:
    wrong_label = small_study(attacks=[{"attack": "mi-face", "labels": [10]}])
    with pytest.raises(StudyError, match=r"labels: 10 is not a class.*0 to 9"):
        simulation.simulate(wrong_label, tmp_path / "run", backend="in-process")
    with pytest.raises(StudyError, match="filters: missing"):
        simulation.simulate(small_study(filters=[]), tmp_path / "run", backend="in-process")
    assert not (tmp_path / "run").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(RunError, match="not empty"):
        simulation.simulate(small_study(), tmp_path / "full", backend="in-process")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"filters": [{"none": True}, {"name": "q", "kind": "quota", "queries": 3, "view": {"size": 64}}]},
            r"small: filters\.1: quota does not accept images of .*, of shape \(28, 28\): a view of 64 x 64 needs",
        ),
        (
            {"filters": [{"none": True}], "tuning": {"view": {"size": [8, 64]}}},
            r"small: tuning: ssim-hash does not accept images of .*, of shape \(28, 28\): a view of 8 x 64 needs",
        ),
    ],
)
def test_a_detector_that_does_not_accept_the_images_of_the_data_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match=message):
        simulation.simulate(small_study(**changes), tmp_path / "run", backend="in-process")
    assert not (tmp_path / "run").exists()
