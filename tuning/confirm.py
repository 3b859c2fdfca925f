"""Confirmation that live runs on the test split match the replay."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mifsim.data.base import DataSet
from mifsim.errors import RunError
from mifsim.run.folder import RunFolder
from mifsim.run.leakage import score_run
from mifsim.run.sessions import run_sessions
from mifsim.server.backend import Backend, Job
from mifsim.server.client_specs import ClientSpec
from mifsim.study import Filter, Study
from mifsim.tables.records import read_table
from mifsim.tables.storage import Folder
from mifsim.victims import Victim, prepare_evaluator
from tuning.live import clients_of
from tuning.outcome import figures
from tuning.replay import Replay, replay
from tuning.tracedata import TraceSet

_SHOWN = 10
"""Number of differences that an error message lists."""


class OfClients:
    """Picklable filter of client specs that accepts the given clients.

    Parameters
    ----------
    clients : iterable of str
        Ids of the accepted clients.
    """

    def __init__(self, clients: Iterable[str]) -> None:
        self._clients = frozenset(clients)

    def __call__(self, spec: ClientSpec) -> bool:
        """Return whether the spec's client is accepted."""
        return spec.client_id in self._clients


def predicted(traces: TraceSet, filters: Sequence[Filter], replay: Replay = replay) -> dict[str, int | None]:
    """Return the query at which the replay blocks each session.

    Parameters
    ----------
    traces : TraceSet
        The test split.
    filters : sequence of Filter
        The filters that run live.
    replay : callable
        Returns the outcome of a configuration for each session.

    Returns
    -------
    dict of str to int or None
        For each session id, the number of the query, from 1; None if the session is never blocked.
    """
    blocked: dict[str, int | None] = {}
    for item in filters:
        blocked_at = replay(traces, item.config).blocked_at
        sessions = zip(traces.clients.tolist(), traces.session_numbers.tolist(), blocked_at.tolist(), strict=True)
        for client, number, query in sessions:
            blocked[f"{client}@{item.name}" + (f"#{number}" if number > 1 else "")] = query or None
    return blocked


def compare(
    run: Folder, expected: dict[str, int | None], live_clients: Collection[str] = (), exact: bool = True
) -> int:
    """Compare the sessions of a live run with the replay's predictions.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    expected : dict of str to int or None
        The predictions; see `predicted`.
    live_clients : collection of str
        Ids of closed-loop clients. Their sessions cannot be predicted; they must only not fail.
    exact : bool
        Whether a session that ends at another query than predicted is an error. It is none with a model that is not
        deterministic, whose answers the clients of the recording did not get.

    Returns
    -------
    int
        Number of sessions that ended as predicted.

    Raises
    ------
    RunError
        If a session differs from its prediction, failed, is missing or was not predicted. The message lists the first
        ten.
    """
    rows = read_table(run, "sessions", ["session_id", "client_id", "outcome", "queries_to_block"])
    unpredicted = pc.is_in(rows["client_id"], pa.array(sorted(live_clients), pa.string()))
    failed = pc.equal(rows["outcome"].cast(pa.string()), "failed")
    rows = rows.filter(pc.or_(pc.invert(unpredicted), failed))
    live = dict(zip(rows["session_id"].to_pylist(), rows["queries_to_block"].to_pylist(), strict=True))
    outcomes = dict(zip(rows["session_id"].to_pylist(), rows["outcome"].cast(pa.string()).to_pylist(), strict=True))
    differences = []
    elsewhere = 0
    for session in sorted(live.keys() | expected.keys()):
        if session not in live:
            differences.append(f"{session}: did not run")
        elif outcomes[session] == "failed":
            differences.append(f"{session}: failed")
        elif session not in expected:
            differences.append(f"{session}: ran, but is not in the test split")
        elif live[session] != expected[session]:
            if not exact:
                elsewhere += 1
                continue
            differences.append(f"{session}: {_when(live[session])} live, {_when(expected[session])} in replay")
    if differences:
        more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        shown = "".join(f"\n  {line}" for line in differences[:_SHOWN])
        raise RunError(
            f"{run}: confirmation failed: {len(differences)} of {len(expected)} sessions differ from replay:"
            f"{shown}{more}"
        )
    return len(expected) - elsewhere


def _when(query: int | None) -> str:
    return "never blocked" if query is None else f"blocked at query {query}"


@dataclass(frozen=True)
class Confirmation:
    """Runs the sessions of the test split live under filters, and compares them with the replay.

    Attributes
    ----------
    study : Study
    data : DataSet
    victim : Victim
    backend : Backend
        Where the sessions run.
    facts : dict of str to str
        Metadata of the Parquet files.
    replay : callable
        Returns the outcome of a configuration for each session.
    """

    study: Study
    data: DataSet
    victim: Victim
    backend: Backend
    facts: dict[str, str]
    replay: Replay

    def run(self, run: RunFolder, test: TraceSet, filters: Sequence[Filter]) -> dict[str, Any]:
        """Run the sessions and score the attacks; return the figures of each filter as plain data for ``run.json``.

        Raises
        ------
        RunError
            If a session failed, or differs from the replay.
        """
        study = self.study
        scored = study.leakage.enabled and study.tuning.confirm_leakage
        leakage = study.leakage.model_copy(update={"enabled": scored})
        live_study = study.model_copy(update={"filters": list(filters), "leakage": leakage})
        expected = predicted(test, filters, self.replay)
        job = Job(live_study, run.path.resolve(), self.facts, separate_images=study.tuning.separate_images)
        classes = len(self.data.class_names)
        live_clients = {spec.client_id for spec in clients_of(study, "test", classes)}
        selection = OfClients({*test.clients.tolist(), *live_clients})
        run_sessions("confirming", run, job, self.victim, self.backend, classes, selection)
        # A service may combine requests differently in each run, which changes the last bits of its answers.
        exact = self.victim.deterministic and self.victim.config.kind != "url"
        confirmed = compare(run.path, expected, live_clients, exact)
        if scored:
            evaluator = prepare_evaluator(self.data)
            run.update_facts(evaluator=evaluator.facts)
            score_run(run.path, live_study, self.data, self.victim, evaluator, self.facts)
        defended = [item for item in filters if not item.undefended]
        return {
            "confirmed_sessions": confirmed,
            **({} if exact else {"differing_sessions": len(expected) - confirmed}),
            "test": {item.name: figures(test, item.config, study.tuning.confidence, self.replay) for item in defended},
        }
