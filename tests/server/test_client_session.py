"""Consecutive sessions of one client: their counts, the detector's state, and what a client may not do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mifsim.clients import Answer, Query, Refusal
from mifsim.clients.protocol import ClientGenerator
from mifsim.defense import Detector, FilterConfig, ModelAnswer, QueryFilter
from mifsim.defense.config import Scope
from mifsim.defense.quota import QuotaConfig
from mifsim.leakage import Snapshots
from mifsim.run.leakage import decode
from mifsim.server.client_session import ClientSession, SessionRow
from mifsim.server.client_specs import ClientSpec
from mifsim.server.session import Session
from mifsim.study.wire import Transport
from tests.odd_detectors import Faulty, FaultyConfig

SHAPE = (8, 8)
STRICT = FilterConfig(t_ssim=0.99, t_hash=0.01, n_b=4, l_sp=1)
"""A filter that refuses the second of two similar images."""


def image(value: float) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def strict_filter() -> Detector:
    return QueryFilter(STRICT)


def run_client(
    client: ClientGenerator,
    *,
    closed_loop: bool = True,
    budget: int = 100,
    scope: Scope = "session",
    new_detector: Callable[[], Detector] = strict_filter,
    revisits: bool = False,
    on_query: Callable[[int, str, int, float], None] = lambda number, verdict, query, count: None,
) -> list[SessionRow]:
    """Run one client until it ends, with the same answer to every query; return the rows of its sessions."""
    rows: list[SessionRow] = []
    session = ClientSession(
        spec=ClientSpec(0, 0, 0, 0, "a/0/0"),
        generator=client,
        closed_loop=closed_loop,
        budget=budget,
        name="a/0/0@f",
        scope=scope,
        new_detector=lambda before: new_detector(),
        open_session=lambda detector: Session(detector, Transport("float32"), SHAPE),
        new_row=lambda row: rows.append(row) or len(rows) - 1,
        new_snapshots=lambda: Snapshots(np.array([0, 1, 2, 3])),
        on_query=on_query,
        revisits=revisits,
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
        new_session = new_client = False
        for value in values:
            if isinstance(value, str):
                new_client = True
            elif value is None:
                new_session = True
            else:
                yield Query(image(value), new_session=new_session, new_client=new_client)
                new_session = new_client = False
        return image(0.5)

    return client


def test_after_a_refusal_the_next_query_opens_a_new_session() -> None:
    # In the second session 0.1 and 0.3 are new to the detector; then the client has sent all its images.
    rows = run_client(sender(0.1, 0.3, 0.1, 0.1, 0.3)())
    assert summary(rows) == [("a/0/0@f", "blocked", 3, 3), ("a/0/0@f#2", "finished", 2, None)]


def test_a_session_that_the_client_leaves_is_finished() -> None:
    rows = run_client(sender(0.1, 0.3, None, 0.1, 0.3, None, 0.1)())
    assert summary(rows) == [
        ("a/0/0@f", "finished", 2, None),
        ("a/0/0@f#2", "finished", 2, None),
        ("a/0/0@f#3", "finished", 1, None),
    ]


def test_leaving_a_session_without_queries_opens_no_new_one() -> None:
    rows = run_client(sender(None, 0.1, 0.1, None, 0.1)())
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2), ("a/0/0@f#2", "finished", 1, None)]


def test_the_budget_covers_all_sessions_of_a_client() -> None:
    rows = run_client(sender(0.1, 0.1, 0.1, 0.3, 0.5)(), budget=4)
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2), ("a/0/0@f#2", "exhausted", 2, None)]
    rows = run_client(sender(0.1, 0.1, 0.1)(), budget=2)  # no session is opened once the budget is spent
    assert summary(rows) == [("a/0/0@f", "blocked", 2, 2)]


def test_an_open_loop_client_may_neither_continue_after_a_refusal_nor_leave() -> None:
    continued = run_client(sender(0.1, 0.1, 0.3)(), closed_loop=False)
    assert [row.outcome for row in continued] == ["failed"]
    assert "continued after a refusal without being closed_loop" in str(continued[0].error)
    left = run_client(sender(0.1, None, 0.3)(), closed_loop=False)
    assert [row.outcome for row in left] == ["failed"]
    assert "left its session without being closed_loop" in str(left[0].error)


def test_every_session_begins_with_a_snapshot_of_the_current_reconstruction() -> None:
    def client() -> ClientGenerator:
        reply = yield Query(image(0.1), guess=image(0.2))
        assert isinstance(reply, Answer)
        reply = yield Query(image(0.1), guess=image(0.4))
        assert isinstance(reply, Refusal)
        yield Query(image(0.1), guess=image(0.6))
        return image(0.8)

    first, second = run_client(client())
    assert first.snapshots is not None
    assert second.snapshots is not None
    assert [query for query, _, _ in first.snapshots.as_png()] == [0, 1]
    assert [query for query, _, _ in second.snapshots.as_png()] == [0, 1]


def test_the_last_snapshot_is_the_reconstruction_returned_after_a_refusal() -> None:
    def client() -> ClientGenerator:
        yield Query(image(0.1), guess=image(0.2))
        reply = yield Query(image(0.1), guess=image(0.4))
        assert isinstance(reply, Refusal)
        return image(1.0)

    (row,) = run_client(client(), closed_loop=False)
    assert row.snapshots is not None
    kept = {query: decode(png)[0, 0] for query, _, png in row.snapshots.as_png()}
    assert kept == {0: np.float32(51 / 255), 1: 1.0}


# The scope: whether the detector's state belongs to one session or to all sessions of a client.


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


# Detectors may be plug-ins: a detector that fails ends only its own session.


@pytest.mark.parametrize(
    ("method", "fault", "message"),
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
def test_a_detector_that_fails_ends_its_session_as_failed(method: str, fault: str, message: str, scope: Scope) -> None:
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

    new_detector = FaultyConfig(method, fault).new_detector
    (row,) = run_client(client(), closed_loop=False, scope=scope, new_detector=new_detector)
    assert (row.outcome, row.queries, row.queries_to_block) == ("failed", 2, None)
    assert row.answered == (2 if method == "observe" else 1)
    assert str(row.error).startswith(f"DetectorError: {message}")
    assert replies == [Answer(0), "closed"]


def test_an_image_that_the_detector_rejects_is_not_a_failure() -> None:
    verdicts: list[tuple[str, int, float]] = []

    def client() -> ClientGenerator:
        yield Query(image(0.1))
        with pytest.raises(ValueError, match="not this one"):
            yield Query(image(0.3))
        yield Query(image(0.5))
        return image(0.5)

    def new_detector() -> Faulty:
        return FaultyConfig("check", "refuses").new_detector()

    (row,) = run_client(client(), new_detector=new_detector, on_query=lambda _, *rest: verdicts.append(rest))
    assert (row.outcome, row.queries, row.answered) == ("finished", 3, 2)
    assert [verdict for verdict, _, _ in verdicts] == ["invalid"]
