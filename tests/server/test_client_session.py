"""One client, one session after another: what is counted where, and what a client may not do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mifsim.clients import Answer, Query, Refusal
from mifsim.clients.protocol import ClientGenerator
from mifsim.defense import Detector, FilterConfig, ModelAnswer, QueryFilter
from mifsim.defense.config import Scope
from mifsim.leakage import Snapshots
from mifsim.run.leakage import decode
from mifsim.server.client_session import ClientSession, SessionRow
from mifsim.server.client_specs import ClientSpec
from mifsim.server.session import Session
from mifsim.study.wire import Transport
from tests.odd_detectors import Faulty, FaultyConfig

SHAPE = (8, 8)
STRICT = FilterConfig(t_ssim=0.99, t_hash=0.01, n_b=4, l_sp=1)
"""The second of two like images is refused."""


def image(value: float) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def strict() -> Detector:
    return QueryFilter(STRICT)


def converse(
    client: ClientGenerator,
    *,
    closed_loop: bool = True,
    budget: int = 100,
    scope: Scope = "session",
    new_detector: Callable[[], Detector] = strict,
    on_query: Callable[[int, str, int, float], None] = lambda number, verdict, query, count: None,
) -> list[SessionRow]:
    rows: list[SessionRow] = []
    session = ClientSession(
        spec=ClientSpec(0, 0, 0, 0, "a/0/0"),
        generator=client,
        closed_loop=closed_loop,
        budget=budget,
        name="a/0/0@f",
        scope=scope,
        new_detector=new_detector,
        open_session=lambda detector: Session(detector, Transport("float32"), SHAPE),
        new_row=lambda row: rows.append(row) or len(rows) - 1,
        new_snapshots=lambda: Snapshots(np.array([0, 1, 2, 3])),
        on_query=on_query,
    )
    answer = None
    while session.advance(answer) is not None:
        session.observe(ModelAnswer(0, np.ones(1, np.float32)))
        answer = Answer(0)
    return rows


def summary(rows: list[SessionRow]) -> list[tuple[str, str, int, int | None]]:
    return [(row.session_id, row.outcome, row.queries, row.queries_to_block) for row in rows]


def sender(*values: float | str | None) -> Callable[[], ClientGenerator]:
    """A client that sends these images, whatever the answers. None: new session; "new": new client."""

    def client() -> ClientGenerator:
        leaves = another = False
        for value in values:
            if isinstance(value, str):
                another = True
            elif value is None:
                leaves = True
            else:
                yield Query(image(value), new_session=leaves, new_client=another)
                leaves = another = False
        return image(0.5)

    return client


def test_after_a_refusal_the_next_query_opens_a_session() -> None:
    # In the second session 0.1 and 0.3 are new again; the client then has no more to send.
    rows = converse(sender(0.1, 0.3, 0.1, 0.1, 0.3)())
    assert summary(rows) == [("a/0/0@f", "blocked", 3, 3), ("a/0/0@f#2", "finished", 2, None)]


def test_a_session_that_is_left_is_finished() -> None:
    rows = converse(sender(0.1, 0.3, None, 0.1, 0.3, None, 0.1)())
    assert summary(rows) == [
        ("a/0/0@f", "finished", 2, None),
        ("a/0/0@f#2", "finished", 2, None),
        ("a/0/0@f#3", "finished", 1, None),
    ]


def test_a_fresh_session_is_not_left() -> None:
    rows = converse(sender(None, 0.1, 0.1, None, 0.1)())
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2), ("a/0/0@f#2", "finished", 1, None)]


def test_the_budget_is_the_clients_not_the_sessions() -> None:
    rows = converse(sender(0.1, 0.1, 0.1, 0.3, 0.5)(), budget=4)
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2), ("a/0/0@f#2", "exhausted", 2, None)]
    rows = converse(sender(0.1, 0.1, 0.1)(), budget=2)  # no session is opened that nothing could be sent in
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2)]


def test_an_open_loop_client_may_neither_go_on_nor_leave() -> None:
    went_on = converse(sender(0.1, 0.1, 0.3)(), closed_loop=False)
    assert [row.outcome for row in went_on] == ["failed"]
    assert "continued after a refusal without being closed_loop" in str(went_on[0].error)
    left = converse(sender(0.1, None, 0.3)(), closed_loop=False)
    assert [row.outcome for row in left] == ["failed"]
    assert "left its session without being closed_loop" in str(left[0].error)


def test_every_session_begins_with_what_the_attacker_holds() -> None:
    def client() -> ClientGenerator:
        reply = yield Query(image(0.1), guess=image(0.2))
        assert isinstance(reply, Answer)
        reply = yield Query(image(0.1), guess=image(0.4))
        assert isinstance(reply, Refusal)
        yield Query(image(0.1), guess=image(0.6))
        return image(0.8)

    first, second = converse(client())
    assert first.snapshots is not None
    assert second.snapshots is not None
    assert [query for query, _, _ in first.snapshots.as_png()] == [0, 1]
    assert [query for query, _, _ in second.snapshots.as_png()] == [0, 1]


def test_what_a_refused_attacker_makes_of_its_answers_is_what_it_held_last() -> None:
    def client() -> ClientGenerator:
        yield Query(image(0.1), guess=image(0.2))
        reply = yield Query(image(0.1), guess=image(0.4))
        assert isinstance(reply, Refusal)
        return image(1.0)

    (row,) = converse(client(), closed_loop=False)
    assert row.snapshots is not None
    kept = {query: decode(png)[0, 0] for query, _, png in row.snapshots.as_png()}
    assert kept == {0: np.float32(51 / 255), 1: 1.0}


# The scope: whose state the detector is.


def test_with_the_scope_of_the_client_the_state_survives_its_sessions() -> None:
    left = sender(0.1, 0.3, None, 0.1)
    assert summary(converse(left(), scope="session"))[1] == ("a/0/0@f#2", "finished", 1, None)
    # 0.1 was sent in the first session, which was not ended.
    assert summary(converse(left(), scope="client")) == [
        ("a/0/0@f", "finished", 2, None),
        ("a/0/0@f#2", "blocked", 1, 1),
    ]


def test_a_blocked_client_is_refused_at_its_next_first_query_and_then_stopped() -> None:
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

    rows = converse(client(), scope="client")
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2), ("a/0/0@f#2", "blocked", 1, 1)]
    assert [row.answered for row in rows] == [1, 0]
    assert [type(reply) for reply in replies] == [Answer, Refusal, Refusal]
    assert closed == [True]
    assert {row.client_number for row in rows} == {1}


def test_a_session_after_a_refusal_is_a_new_one_where_the_scope_is_the_session() -> None:
    rows = converse(sender(0.1, 0.1, 0.5, 0.7, 0.9)(), scope="session")
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2), ("a/0/0@f#2", "finished", 3, None)]
    assert {row.client_number for row in rows} == {1}


@pytest.mark.parametrize("scope", ["session", "client"])
def test_another_client_starts_anew_and_is_counted(scope: Scope) -> None:
    rows = converse(sender(0.1, 0.1, "new", 0.1, 0.3, "new", 0.1)(), scope=scope)
    assert summary(rows) == [
        ("a/0/0@f", "blocked", 2, 2),
        ("a/0/0@f#2", "finished", 2, None),
        ("a/0/0@f#3", "finished", 1, None),
    ]
    assert [row.client_number for row in rows] == [1, 2, 3]


def test_a_client_that_was_refused_again_may_come_back_as_another() -> None:
    rows = converse(sender(0.1, 0.1, 0.5, "new", 0.1, 0.1, 0.5, 0.7)(), scope="client")
    assert [(row.client_number, row.outcome, row.queries) for row in rows] == [
        (1, "blocked", 2),
        (1, "blocked", 1),  # so that it can notice
        (2, "blocked", 2),
        (2, "blocked", 1),  # and so can the second
    ]


def test_the_first_session_is_of_the_first_client_whatever_its_query_says() -> None:
    (row,) = converse(sender("new", 0.1, 0.3)(), scope="client")
    assert (row.client_number, row.queries) == (1, 2)


def test_queries_of_all_clients_are_of_one_budget() -> None:
    rows = converse(sender(0.1, 0.1, "new", 0.1, 0.1, "new", 0.1)(), scope="client", budget=4)
    assert [(row.client_number, row.outcome, row.queries) for row in rows] == [(1, "blocked", 2), (2, "blocked", 2)]


def test_an_open_loop_client_may_not_come_back_as_another() -> None:
    (row,) = converse(sender(0.1, "new", 0.3)(), closed_loop=False, scope="client")
    assert row.outcome == "failed"
    assert "left its session without being closed_loop" in str(row.error)


# Detectors may be foreign code: whatever they do ends their own session alone.


@pytest.mark.parametrize(
    ("method", "fault", "told"),
    [
        ("check", "raises", "the detector's check failed at query 2: KeyError: 'as it was told to'"),
        ("check", "stops", "the detector's check failed at query 2: StopIteration: "),
        ("check", "answers", "check returned True at query 2, which is not a Verdict"),
        ("check", "breaks", "the detector's count failed at query 2: AttributeError: "),
        ("observe", "raises", "the detector's observe failed at query 2: KeyError: 'as it was told to'"),
        ("observe", "stops", "the detector's observe failed at query 2: StopIteration: "),
        ("observe", "refuses", "the detector's observe failed at query 2: InvalidImage: not this one"),
        ("observe", "breaks", "the detector's count failed at query 2: AttributeError: "),
    ],
)
@pytest.mark.parametrize("scope", ["session", "client"])
def test_a_detector_that_goes_wrong_ends_its_session_as_failed(
    method: str, fault: str, told: str, scope: Scope
) -> None:
    replies: list[object] = []

    def client() -> ClientGenerator:
        try:
            for value in (0.1, 0.3, 0.5):
                reply = yield Query(image(value))
                replies.append(reply)
        except GeneratorExit:
            replies.append("closed")
            raise
        return image(0.5)

    made = FaultyConfig(method, fault).new_detector
    (row,) = converse(client(), closed_loop=False, scope=scope, new_detector=made)
    assert (row.outcome, row.queries, row.queries_to_block) == ("failed", 2, None)
    assert row.answered == (2 if method == "observe" else 1)
    assert str(row.error).startswith(f"DetectorError: {told}")
    assert replies == [Answer(0), "closed"]


def test_an_image_that_the_detector_refuses_is_no_failure() -> None:
    verdicts: list[tuple[str, int, float]] = []

    def client() -> ClientGenerator:
        yield Query(image(0.1))
        with pytest.raises(ValueError, match="not this one"):
            yield Query(image(0.3))
        yield Query(image(0.5))
        return image(0.5)

    def made() -> Faulty:
        return FaultyConfig("check", "refuses").new_detector()

    (row,) = converse(client(), new_detector=made, on_query=lambda _, *rest: verdicts.append(rest))
    assert (row.outcome, row.queries, row.answered) == ("finished", 3, 2)
    assert [verdict for verdict, _, _ in verdicts] == ["invalid"]
