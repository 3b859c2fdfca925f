"""Whose state a detector keeps: that of a session, or of a client with several sessions or visits."""

from __future__ import annotations

import pytest

from mifsim.clients import Answer, Query, Refusal
from mifsim.clients.protocol import ClientGenerator
from mifsim.defense import Detector
from mifsim.defense.config import Scope
from mifsim.defense.quota import QuotaConfig
from tests.server.client_sessions import image, run_client, sender, summary


def test_with_client_scope_the_detector_state_is_kept_across_sessions() -> None:
    leaving = sender(0.1, 0.3, None, 0.1)
    assert summary(run_client(leaving(), scope="session"))[1] == ("a/0/0@f#2", "finished", 1, None)
    # The detector still knows 0.1 from the first session, which the client left.
    assert summary(run_client(leaving(), scope="client")) == [
        ("a/0/0@f", "finished", 2, None),
        ("a/0/0@f#2", "blocked", 1, 1),
    ]


def test_a_blocked_client_is_refused_once_in_its_next_session_and_then_stopped() -> None:
    replies: list[Answer | Refusal] = []
    closed: list[bool] = []

    def client() -> ClientGenerator:
        try:
            for value in (0.1, 0.1, 0.5, 0.7, 0.9):
                reply = yield Query(image(value))
                replies.append(reply)
        finally:
            closed.append(True)
        return image(0.5)

    rows = run_client(client(), scope="client")
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2), ("a/0/0@f#2", "blocked", 1, 1)]
    assert [row.answered for row in rows] == [1, 0]
    assert [type(reply) for reply in replies] == [Answer, Refusal, Refusal]
    assert closed == [True]
    assert {row.client_number for row in rows} == {1}


def test_with_session_scope_a_session_after_a_refusal_has_a_new_detector() -> None:
    rows = run_client(sender(0.1, 0.1, 0.5, 0.7, 0.9)(), scope="session")
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2), ("a/0/0@f#2", "finished", 3, None)]
    assert {row.client_number for row in rows} == {1}


@pytest.mark.parametrize("scope", ["session", "client"])
def test_a_new_client_identity_gets_a_new_detector_and_is_counted(scope: Scope) -> None:
    rows = run_client(sender(0.1, 0.1, "new", 0.1, 0.3, "new", 0.1)(), scope=scope)
    assert summary(rows) == [
        ("a/0/0@f", "blocked", 2, 2),
        ("a/0/0@f#2", "finished", 2, None),
        ("a/0/0@f#3", "finished", 1, None),
    ]
    assert [row.client_number for row in rows] == [1, 2, 3]


def test_a_client_that_was_refused_again_may_continue_under_a_new_identity() -> None:
    rows = run_client(sender(0.1, 0.1, 0.5, "new", 0.1, 0.1, 0.5, 0.7)(), scope="client")
    assert [(row.client_number, row.outcome, row.queries) for row in rows] == [
        (1, "blocked", 2),
        (1, "blocked", 1),  # so that the client can detect the block
        (2, "blocked", 2),
        (2, "blocked", 1),  # the same for the second identity
    ]


def test_new_client_in_the_first_query_opens_no_second_identity() -> None:
    (row,) = run_client(sender("new", 0.1, 0.3)(), scope="client")
    assert (row.client_number, row.queries) == (1, 2)


def test_all_identities_of_a_client_share_one_budget() -> None:
    rows = run_client(sender(0.1, 0.1, "new", 0.1, 0.1, "new", 0.1)(), scope="client", budget=4)
    assert [(row.client_number, row.outcome, row.queries) for row in rows] == [(1, "blocked", 2), (2, "blocked", 2)]


def test_an_open_loop_client_may_not_change_its_identity() -> None:
    (row,) = run_client(sender(0.1, "new", 0.3)(), closed_loop=False, scope="client")
    assert row.outcome == "failed"
    assert "left its session without being closed_loop" in str(row.error)


# Clients of a log return, whatever the detector answered.


def visitor(*sessions: list[float], refused: list[int] | None = None) -> ClientGenerator:
    """Send the images of each session; leave a session when refused, and note at which of its queries."""
    for number, values in enumerate(sessions):
        for place, value in enumerate(values):
            if isinstance((yield Query(image(value), new_session=place == 0 and number > 0)), Refusal):
                if refused is not None:
                    refused.append(place + 1)
                break
    return None


def quota_of_three() -> Detector:
    return QuotaConfig(3).new_detector()


def test_each_visit_is_a_session_with_a_new_detector() -> None:
    rows = run_client(
        visitor([0.1] * 5, [0.2] * 2, [0.3] * 4), closed_loop=False, revisits=True, new_detector=quota_of_three
    )
    assert summary(rows) == [
        ("a/0/0@f", "blocked", 4, 4),
        ("a/0/0@f#2", "finished", 2, None),
        ("a/0/0@f#3", "blocked", 4, 4),
    ]
    assert [row.client_number for row in rows] == [1, 1, 1]


def test_a_blocked_client_is_refused_at_the_first_query_of_every_later_visit() -> None:
    refused: list[int] = []
    rows = run_client(
        visitor([0.1] * 2, [0.2] * 4, [0.3] * 4, [0.4] * 2, refused=refused),
        closed_loop=False, revisits=True, scope="client", new_detector=quota_of_three,
    )  # fmt: skip
    assert [(row.outcome, row.queries, row.queries_to_block) for row in rows] == [
        ("finished", 2, None), ("blocked", 2, 2), ("blocked", 1, 1), ("blocked", 1, 1),
    ]  # fmt: skip
    assert refused == [2, 1, 1]


def test_the_budget_of_a_returning_client_is_that_of_each_session() -> None:
    rows = run_client(visitor([0.1] * 5, [0.2] * 2, [0.3] * 3), closed_loop=False, revisits=True, budget=3,
                      new_detector=QuotaConfig(100).new_detector)  # fmt: skip
    assert [(row.outcome, row.queries) for row in rows] == [("exhausted", 3), ("finished", 2), ("finished", 3)]


def test_a_returning_client_may_not_go_on_in_a_blocked_session() -> None:
    def client() -> ClientGenerator:
        for _ in range(9):
            yield Query(image(0.1))
        return None

    (row,) = run_client(client(), closed_loop=False, revisits=True, new_detector=quota_of_three)
    assert row.outcome == "failed"
    assert "continued after a refusal without being closed_loop" in str(row.error)
