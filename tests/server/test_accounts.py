"""A client with several accounts: each has its own session and detector, and they share the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mifsim.clients import ClientGenerator, Query, Refusal
from mifsim.defense import Detector
from mifsim.defense.config import Scope
from mifsim.defense.quota import QuotaConfig
from mifsim.run import simulate as simulation
from mifsim.run.leakage import decode
from mifsim.server.session_rows import SessionRow
from mifsim.study import Study
from mifsim.tables.records import read_table
from reports.tables import attack_table
from tests.odd_detectors import FaultyConfig
from tests.run.comparing import assert_same_rows
from tests.server.client_sessions import image, run_client
from tests.small import small_study

SCOPES = pytest.mark.parametrize("scope", ["session", "client"])


def quota(queries: int) -> Callable[[], Detector]:
    return QuotaConfig(queries).new_detector


def sender(sent: str, replies: list[str] | None = None) -> ClientGenerator:
    """Send one query for each word: the account, ``+`` for a new session, ``*`` for a new client identity."""
    for number, word in enumerate(sent.split()):
        reply = yield Query(
            image(number / 100), account=int(word[0]), new_session=word[1:] == "+", new_client=word[1:] == "*"
        )
        if replies is not None:
            replies.append(f"refused {reply.account}" if isinstance(reply, Refusal) else "answered")
    return image(0.99)


def summary(rows: list[SessionRow]) -> list[tuple[int, str, int, int]]:
    return [(row.client_number, row.outcome, row.queries, row.last_query) for row in rows]


@SCOPES
def test_sessions_of_all_accounts_are_open_at_once(scope: Scope) -> None:
    rows = run_client(sender("0 1 0 2 1 0"), scope=scope, new_detector=quota(100))
    assert [row.session_id for row in rows] == ["a/0/0@f", "a/0/0@f#2", "a/0/0@f#3"]
    assert summary(rows) == [(1, "finished", 3, 6), (2, "finished", 2, 5), (3, "finished", 1, 4)]
    assert [row.count for row in rows] == [3, 2, 1]


@SCOPES
def test_each_account_has_a_detector_of_its_own(scope: Scope) -> None:
    replies: list[str] = []
    rows = run_client(sender("0 1 0 1 0 1", replies), scope=scope, new_detector=quota(2))
    # The third query of an account is one too many.
    assert summary(rows) == [(1, "blocked", 3, 5), (2, "blocked", 3, 6)]
    assert replies == ["answered"] * 4 + ["refused 0", "refused 1"]


def test_with_the_scope_of_the_client_the_state_of_an_account_survives_its_sessions() -> None:
    rows = run_client(sender("0 1 0 1 0+ 1"), scope="client", new_detector=quota(2))
    assert summary(rows) == [(1, "finished", 2, 3), (2, "blocked", 3, 6), (1, "blocked", 1, 5)]
    rows = run_client(sender("0 1 0 1 0+ 1"), scope="session", new_detector=quota(2))
    assert summary(rows) == [(1, "finished", 2, 3), (2, "blocked", 3, 6), (1, "finished", 1, 5)]


def test_a_blocked_account_is_refused_again_while_others_are_answered() -> None:
    replies: list[str] = []
    rows = run_client(sender("0 0 1 0 1 1", replies), scope="client", new_detector=quota(1))
    assert replies == ["answered", "refused 0", "answered", "refused 0", "refused 1", "refused 1"]
    assert summary(rows) == [
        (1, "blocked", 2, 2),
        (2, "blocked", 2, 5),
        (1, "blocked", 1, 4),
        (2, "blocked", 1, 6),
    ]


def test_a_client_that_insists_on_a_blocked_account_is_stopped() -> None:
    replies: list[str] = []
    rows = run_client(sender("0 1 0 0 0 1", replies), scope="client", new_detector=quota(1))
    assert replies == ["answered", "answered", "refused 0", "refused 0"]
    assert summary(rows) == [(1, "blocked", 2, 3), (2, "finished", 1, 2), (1, "blocked", 1, 4)]


@SCOPES
def test_a_new_client_identity_replaces_that_of_its_account(scope: Scope) -> None:
    rows = run_client(sender("0 1 0 0* 1 0 2"), scope=scope, new_detector=quota(2))
    assert summary(rows) == [
        (1, "finished", 2, 3),
        (2, "finished", 2, 5),
        (3, "finished", 2, 6),
        (4, "finished", 1, 7),
    ]


@SCOPES
def test_the_budget_is_that_of_all_accounts_together(scope: Scope) -> None:
    rows = run_client(sender("0 1 2 0 1 2 0"), scope=scope, new_detector=quota(100), budget=5)
    assert summary(rows) == [(1, "exhausted", 2, 4), (2, "exhausted", 2, 5), (3, "exhausted", 1, 3)]
    # The budget ends with a refusal: the session that was refused stays blocked.
    rows = run_client(sender("0 1 0 1"), scope=scope, new_detector=quota(1), budget=3)
    assert summary(rows) == [(1, "blocked", 2, 3), (2, "exhausted", 1, 2)]


def test_the_first_account_may_have_any_number() -> None:
    rows = run_client(sender("7 7 3 7"), new_detector=quota(100))
    assert summary(rows) == [(1, "finished", 3, 4), (2, "finished", 1, 3)]
    (row,) = run_client(sender("7 7"), new_detector=quota(100), closed_loop=False)
    assert (row.outcome, row.queries) == ("finished", 2)


def test_an_open_loop_client_may_not_use_a_second_account() -> None:
    (row,) = run_client(sender("0 1"), new_detector=quota(100), closed_loop=False)
    assert (row.outcome, row.queries) == ("failed", 1)
    assert str(row.error).startswith("RuntimeError: the client used another account without being closed_loop")


@SCOPES
def test_a_failure_ends_the_sessions_of_all_accounts(scope: Scope) -> None:
    made = FaultyConfig("check", "raises").new_detector
    rows = run_client(sender("0 1 1 0"), scope=scope, new_detector=made)
    assert summary(rows) == [(1, "failed", 1, 1), (2, "failed", 2, 3)]
    assert rows[0].error == rows[1].error
    assert str(rows[1].error).startswith("DetectorError: the detector's check failed at query 2")


def test_an_invalid_image_is_counted_in_its_account() -> None:
    def client() -> ClientGenerator:
        yield Query(image(0.1), account=0)
        with pytest.raises(ValueError, match="shape"):
            yield Query(np.zeros((5, 5), np.float32), account=1)
        yield Query(image(0.1), account=0)
        return image(0.5)

    rows = run_client(client(), new_detector=quota(100))
    assert summary(rows) == [(1, "finished", 2, 3), (2, "finished", 1, 2)]
    assert [row.answered for row in rows] == [2, 0]


def test_the_session_of_the_last_query_has_the_final_reconstruction() -> None:
    """The second account is refused early; the first one makes the reconstruction better after that, and is last."""

    def client() -> ClientGenerator:
        for number, account in enumerate((0, 1, 1, 0, 0)):
            reply = yield Query(image(0.5), guess=image(number / 255), account=account)
            assert isinstance(reply, Refusal) == (number == 2)
        return image(1.0)

    def made() -> Detector:
        return QuotaConfig(next(limits)).new_detector()

    limits = iter((100, 1))
    first, second = run_client(client(), new_detector=made)
    assert (first.last_query, second.last_query) == (5, 3)
    kept = [
        {query: round(float(decode(png)[0, 0]) * 255) for query, _, png in row.snapshots.as_png()}
        for row in (first, second)
        if row.snapshots is not None
    ]
    # After the first answer it held 1, and when it came back to this session 3.
    assert kept == [{0: 0, 1: 3, 2: 4, 3: 255}, {0: 1, 1: 2}]


# Whole runs.

ATTACK = {"attack": "nes", "space": "pca", "coordinates": 4, "labels": [0, 3], "budget_queries": 25}


def study_of(*evasions: dict[str, Any], scope: str = "client", **changes: Any) -> Study:
    filters = [{"name": "quota", "kind": "quota", "queries": 4, "scope": scope}, {"none": True}]
    attack = {**ATTACK, "name": "nes", "evasions": list(evasions)}
    return small_study(attacks=[attack], users=[], filters=filters, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = study_of({"accounts": 3})
    return simulation.simulate(study, tmp_path_factory.mktemp("runs") / "accounts", backend="in-process")


def test_accounts_stand_in_the_tables(run: Path) -> None:
    sessions = read_table(run, "sessions").to_pandas()
    queries = read_table(run, "queries").to_pandas()
    for client, rows in sessions[sessions["filter"] == "none"].groupby("client_id"):
        found = rows.sort_values("client_number")
        # 25 queries in turn: 9, 8 and 8.
        assert found["client_number"].tolist() == [1, 2, 3], client
        assert found["queries"].tolist() == [9, 8, 8]
        assert found["last_query"].tolist() == [25, 23, 24]
        assert found["outcome"].eq("exhausted").all()
    for client, rows in sessions[sessions["filter"] == "quota"].groupby("client_id"):
        found = rows.sort_values("client_number")
        # The fifth query of each account is refused; the next account sends it again.
        assert found["queries"].tolist() == [5, 5, 5], client
        assert found["last_query"].tolist() == [13, 14, 15]
        assert found["outcome"].eq("blocked").all()
    counted = queries.groupby("session_id").size()
    assert counted.to_dict() == sessions.set_index("session_id")["queries"].to_dict()


def test_tables_count_an_attacker_once_with_the_clients_that_it_used(run: Path) -> None:
    table = attack_table(run).set_index("filter")
    assert table["sessions"].tolist() == [2, 2]
    assert table["clients_used"].tolist() == [3.0, 3.0]
    assert table.loc["quota", "blocked"] == 2
    assert table.loc["quota", "restricted_mean_queries"] == 15
    assert table.loc["none", "blocked"] == 0
    assert table.loc["none", "queries_spent"] == 25


def test_the_queries_of_all_accounts_together_are_those_of_the_attack_alone(run: Path, tmp_path: Path) -> None:
    alone = simulation.simulate(study_of(), tmp_path / "alone", backend="in-process")

    def confidences(path: Path) -> Counter[tuple[str, float]]:
        rows = read_table(path, "queries").to_pandas()
        rows = rows[rows["session_id"].str.contains("@none")]
        return Counter(zip(rows["session_id"].str.partition("@")[0], rows["target_confidence"], strict=True))

    assert confidences(run) == confidences(alone)
    assert sum(confidences(run).values()) == 50


ROWS: list[list[dict[str, Any]]] = [
    [{"accounts": 3}],
    [{"accounts": {"accounts": 2, "order": "one-after-another"}}, {"morph": 0.3}],
]


@pytest.mark.parametrize("evasions", ROWS)
def test_rows_do_not_depend_on_how_many_clients_run_together(evasions: list[dict[str, Any]], tmp_path: Path) -> None:
    one, other = (
        simulation.simulate(
            study_of(*evasions, server={"sessions_per_host": size}), tmp_path / str(size), backend="in-process"
        )
        for size in (3, 30)
    )
    assert_same_rows(one, other)


@SCOPES
@pytest.mark.parametrize("evasions", [[{"accounts": 2}, {"rotate": 3}], [{"rotate": 6}, {"accounts": 2}]])
def test_new_sessions_of_the_accounts_help_only_against_the_scope_of_the_session(
    evasions: list[dict[str, Any]], scope: str, tmp_path: Path
) -> None:
    study = study_of(*evasions, scope=scope)
    run = simulation.simulate(study, tmp_path / "run", backend="in-process")
    table = attack_table(run).set_index("filter")
    assert table.loc["quota", "clients_used"] == 2
    assert table.loc["quota", "blocked"] == (2 if scope == "client" else 0)
