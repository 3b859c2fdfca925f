"""An attacker with several sessions counts as one attacker in every table and curve."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.tables import attackers, survival_of


def session(client: str, number: int, outcome: str, queries: int, **columns: Any) -> dict[str, Any]:
    return {
        "session_id": f"{client}@f" + ("" if number == 1 else f"#{number}"),
        "client_id": client,
        "role": "attacker",
        "client_number": 1,
        "filter": "f",
        "population": client.partition("/")[0],
        "outcome": outcome,
        "queries": queries,
        "queries_to_block": queries if outcome == "blocked" else None,
        "budget_queries": 100,
        "target_confidence": number / 10,
        **columns,
    }


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"queries_to_block": float, "outcome": "category", "filter": "category"})


def test_all_sessions_of_an_attacker_become_one_row() -> None:
    found = attackers(
        frame(
            session("rotate/0", 1, "blocked", 30),
            session("rotate/0", 2, "blocked", 12, client_number=2),  # the attacker gives up here
            session("rotate/1", 1, "blocked", 30),
            session("rotate/1", 2, "blocked", 70),  # the budget is spent here: exhausted, not blocked
            session("plain/0", 1, "finished", 50),
            session("plain/1", 1, "blocked", 100),
            session("user/0", 1, "finished", 9, role="user"),
        )
    )
    assert found["client_id"].tolist() == ["rotate/0", "rotate/1", "plain/0", "plain/1"]
    assert found["sessions_used"].tolist() == [2, 2, 1, 1]
    assert found["clients_used"].tolist() == [2, 1, 1, 1]
    assert found["outcome"].tolist() == ["blocked", "exhausted", "finished", "blocked"]
    assert found["queries"].tolist() == [42, 100, 50, 100]
    assert found["queries_to_block"].fillna(-1).tolist() == [42, -1, -1, 100]
    assert found["session_id"].tolist()[0] == "rotate/0@f#2"  # its last reconstruction is in its last session
    assert found["target_confidence"].tolist()[0] == 0.2
    curve = survival_of(found[found["population"] == "rotate"])
    assert curve.restricted_mean(100) == (42 + 100) / 2


def test_attackers_are_in_the_order_of_their_first_sessions() -> None:
    """A run may write the second session of one client after the first sessions of others."""
    found = attackers(
        frame(session("a/0", 1, "blocked", 3), session("b/0", 1, "finished", 5), session("a/0", 2, "exhausted", 97))
    )
    assert found["client_id"].tolist() == ["a/0", "b/0"]
    assert found["outcome"].tolist() == ["exhausted", "finished"]
    assert found["queries"].tolist() == [100, 5]


def test_the_last_session_of_several_accounts_is_that_of_the_last_query() -> None:
    found = attackers(
        frame(
            # The second account was refused early; the attacker went on with the first one and finished.
            session("a/0", 1, "finished", 40, last_query=50),
            session("a/0", 2, "blocked", 10, client_number=2, last_query=20),
            # Here the first account was the last one that was refused.
            session("b/0", 1, "blocked", 30, last_query=40),
            session("b/0", 2, "blocked", 10, client_number=2, last_query=20),
        )
    )
    assert found["outcome"].tolist() == ["finished", "blocked"]
    assert found["session_id"].tolist() == ["a/0@f", "b/0@f"]
    assert found["queries"].tolist() == [50, 40]
    assert found["queries_to_block"].fillna(-1).tolist() == [-1, 40]
    assert found["clients_used"].tolist() == [2, 2]
