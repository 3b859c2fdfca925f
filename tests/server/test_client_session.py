"""Consecutive sessions of one client: their counts, snapshots, detectors that fail, and what a client may not do."""

from __future__ import annotations

import numpy as np
import pytest

from mifsim.clients import Answer, Query, Refusal
from mifsim.clients.protocol import ClientGenerator
from mifsim.defense.config import Scope
from mifsim.run.leakage import decode
from tests.odd_detectors import Faulty, FaultyConfig
from tests.server.client_sessions import image, run_client, sender, summary


def test_after_a_refusal_the_next_query_opens_a_new_session() -> None:
    # In the second session 0.1 and 0.3 are new to the detector; then the client has sent all its images.
    rows = run_client(sender(0.1, 0.3, 0.1, 0.1, 0.3)())
    assert summary(rows) == [("a/0/0@f", "blocked", 3, 3), ("a/0/0@f#2", "finished", 2, None)]


def test_answered_shared_queries_are_counted_for_each_session() -> None:
    def client() -> ClientGenerator:
        yield Query(image(0.1), shared=True)
        yield Query(image(0.5), shared=True)
        reply = yield Query(image(0.5), shared=True)
        assert isinstance(reply, Refusal)
        yield Query(image(0.3), shared=True)
        yield Query(image(0.9))

    rows = run_client(client())
    assert [(row.queries, row.answered, row.shared) for row in rows] == [(3, 2, 2), (2, 2, 1)]


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
