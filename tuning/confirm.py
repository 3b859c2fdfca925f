"""Confirmation: the chosen configuration runs live on the test sessions, and must do what replay predicted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from mifsim.errors import RunError
from mifsim.server.client_specs import ClientSpec
from mifsim.study import Filter
from mifsim.tables.records import read_table
from mifsim.tables.storage import Folder
from tuning.replay import Replay, replay
from tuning.tracedata import TraceSet

_SHOWN = 10


class OfClients:
    """Which clients to run: the given ones."""

    def __init__(self, clients: Iterable[str]) -> None:
        self._clients = frozenset(clients)

    def __call__(self, spec: ClientSpec) -> bool:
        """Return whether it is one of them."""
        return spec.client_id in self._clients


def predicted(traces: TraceSet, filters: Sequence[Filter], replay: Replay = replay) -> dict[str, int | None]:
    """Return for each session, by its id, the query at which replay has it blocked; None for never.

    Parameters
    ----------
    traces : TraceSet
        The test split.
    filters : sequence of Filter
        Those that run live.
    replay : callable
        Says what a configuration does to each session.
    """
    found: dict[str, int | None] = {}
    for item in filters:
        blocked_at = replay(traces, item.config).blocked_at
        for client, query in zip(traces.clients.tolist(), blocked_at.tolist(), strict=True):
            found[f"{client}@{item.name}"] = query or None
    return found


def compare(run: Folder, expected: dict[str, int | None], live_clients: Collection[str] = ()) -> int:
    """Compare the sessions of a run with what replay predicted; return how many were compared.

    Parameters
    ----------
    run : Path or RemotePath
    expected : dict
        See `predicted`.
    live_clients : collection of str
        Closed-loop clients, of whom nothing was predicted: their sessions must not have failed, and that is all.

    Raises
    ------
    RunError
        Where a session ended otherwise, is missing or was not expected; the message lists the first ten.
    """
    rows = read_table(run, "sessions", ["session_id", "client_id", "outcome", "queries_to_block"])
    unforeseen = pc.is_in(rows["client_id"], pa.array(sorted(live_clients), pa.string()))
    failed = pc.equal(rows["outcome"].cast(pa.string()), "failed")
    rows = rows.filter(pc.or_(pc.invert(unforeseen), failed))
    live = dict(zip(rows["session_id"].to_pylist(), rows["queries_to_block"].to_pylist(), strict=True))
    outcomes = dict(zip(rows["session_id"].to_pylist(), rows["outcome"].cast(pa.string()).to_pylist(), strict=True))
    differences = []
    for session in sorted(live.keys() | expected.keys()):
        if session not in live:
            differences.append(f"{session}: did not run")
        elif outcomes[session] == "failed":
            differences.append(f"{session}: failed")
        elif session not in expected:
            differences.append(f"{session}: ran, but is not in the test split")
        elif live[session] != expected[session]:
            differences.append(f"{session}: {_when(live[session])} live, {_when(expected[session])} in replay")
    if differences:
        more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        shown = "".join(f"\n  {line}" for line in differences[:_SHOWN])
        raise RunError(
            f"{run}: confirmation failed: {len(differences)} of {len(expected)} sessions differ from replay:"
            f"{shown}{more}"
        )
    return len(expected)


def _when(query: int | None) -> str:
    return "never blocked" if query is None else f"blocked at query {query}"
