"""Sessions of one client without a server, with the same answer to every query."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mifsim.clients import Answer, Query
from mifsim.clients.protocol import ClientGenerator
from mifsim.defense import Detector, FilterConfig, ModelAnswer, QueryFilter
from mifsim.defense.config import Scope
from mifsim.leakage import Snapshots
from mifsim.server.client_session import ClientSession
from mifsim.server.client_specs import ClientSpec
from mifsim.server.session import Session
from mifsim.server.session_rows import SessionRow
from mifsim.study.wire import Transport

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
