"""One client, one session after another: what is counted where, and what a client may not do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mifsim.clients import Answer, Query, Refusal
from mifsim.clients.protocol import ClientGenerator
from mifsim.defense import FilterConfig, QueryFilter
from mifsim.leakage import Snapshots
from mifsim.run.leakage import decode
from mifsim.server.client_session import ClientSession, SessionRow
from mifsim.server.client_specs import ClientSpec
from mifsim.server.session import Session
from mifsim.study.wire import Transport

SHAPE = (8, 8)
STRICT = FilterConfig(t_ssim=0.99, t_hash=0.01, n_b=4, l_sp=1)
"""The second of two like images is refused."""


def image(value: float) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def converse(client: ClientGenerator, *, closed_loop: bool = True, budget: int = 100) -> list[SessionRow]:
    rows: list[SessionRow] = []
    conversation = ClientSession(
        spec=ClientSpec(0, 0, 0, 0, "a/0/0"),
        generator=client,
        closed_loop=closed_loop,
        budget=budget,
        name="a/0/0@f",
        open_session=lambda: Session(QueryFilter(STRICT), Transport("float32"), SHAPE),
        new_row=lambda row: rows.append(row) or len(rows) - 1,
        new_snapshots=lambda: Snapshots(np.array([0, 1, 2, 3])),
        on_query=lambda number, verdict, query, count: None,
    )
    answer = None
    while conversation.advance(answer) is not None:
        answer = Answer(0)
    return rows


def summary(rows: list[SessionRow]) -> list[tuple[str, str, int, int | None]]:
    return [(row.session_id, row.outcome, row.queries, row.queries_to_block) for row in rows]


def sender(*values: float | None) -> Callable[[], ClientGenerator]:
    """A client that sends these images, whatever it is told; None before one: in a new session."""

    def client() -> ClientGenerator:
        leaves = False
        for value in values:
            if value is None:
                leaves = True
                continue
            yield Query(image(value), new_session=leaves)
            leaves = False
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
    assert "went on after a refusal, but is not marked closed_loop" in str(went_on[0].error)
    left = converse(sender(0.1, None, 0.3)(), closed_loop=False)
    assert [row.outcome for row in left] == ["failed"]
    assert "left its session, but is not marked closed_loop" in str(left[0].error)


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
