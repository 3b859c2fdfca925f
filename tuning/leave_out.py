"""Calibrations with one workload left out: what users of a workload suffer that was not calibrated for.

The guarantee of a calibration covers its own workloads only. For each workload, the calibration is therefore repeated
as if the study did not contain it: a search from the same seed, of as many trials or ``tuning.leave_out_trials``,
certification and choice on the sessions of the other workloads. The chosen configuration is then replayed on the
sessions of the workload that was left out. Those of the search split are not counted: they show images that the search
has seen in other workloads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mifsim.defense import DetectorConfig
from mifsim.defense.kinds import read_cells
from mifsim.errors import RunError
from mifsim.statistics import clopper_pearson
from mifsim.study import Study, Tuning
from mifsim.study.splitting import SPLITS
from mifsim.tables.records import TableWriter, read_single
from mifsim.tables.storage import Folder
from tuning.candidates import candidates, certify_candidates, no_candidate
from tuning.guarantee import sessions_missing
from tuning.live import LiveAttackers, longest_budget
from tuning.objectives import NO_LIVE
from tuning.outcome import found_front
from tuning.params import config_columns, param_schema
from tuning.proposals import Proposals
from tuning.replay import Replay, honest_sessions, replay
from tuning.tracedata import TraceSet
from tuning.trials import Trial, TrialEvaluator, journal_mismatch


@dataclass(frozen=True)
class LeftOut:
    """Result of a calibration without one workload: a row of the table ``leave_out``.

    Attributes
    ----------
    workload : str
        The workload that was left out.
    limit : float
        Limit of its false-positive rate in the study, in (0, 1).
    config : DetectorConfig or None
        The configuration chosen without it; None if none was certified.
    queries : float or None
        Restricted mean queries to block of this configuration on the search split.
    sessions, blocked : int
        Sessions of the workload in the calibration and the test split (of a client with several sessions, one), and how
        many of them the configuration blocks (0 if there is none).
    test_sessions, test_blocked : int
        The same for the test split alone.
    why_none : str or None
        Reason why no configuration was certified; None if one was.
    """

    workload: str
    limit: float
    config: DetectorConfig | None
    queries: float | None
    sessions: int
    blocked: int
    test_sessions: int
    test_blocked: int
    why_none: str | None = None


def trials_without(tuning: Tuning) -> int:
    """Return the number of trials of a search with a workload left out."""
    return tuning.leave_out_trials or tuning.trials


def study_without(study: Study, workload: str) -> Study:
    """Return the study without one of its workloads, with the number of trials of `trials_without`."""
    tuning = study.tuning.model_copy(update={"trials": trials_without(study.tuning)})
    limits = tuning.false_positive_limit
    if isinstance(limits, dict):
        kept = {name: limit for name, limit in limits.items() if name != workload}
        tuning = tuning.model_copy(update={"false_positive_limit": kept})
    users = [users for users in study.users if users.name != workload]
    return study.model_copy(update={"users": users, "tuning": tuning})


def calibrate_without(
    traces: TraceSet,
    study: Study,
    workload: str,
    finished: Sequence[Trial] = (),
    attackers: LiveAttackers | None = None,
    replay: Replay = replay,
) -> Iterator[Trial | LeftOut]:
    """Calibrate without a workload; yield each new trial as it is finished, and at last the result.

    The trials run one after the other. They are the same as in a search with concurrent trials, because a proposal
    depends only on the results of trials that are at least ``tuning.concurrent`` trials older.

    Parameters
    ----------
    traces : TraceSet
        All splits.
    study : Study
        The study with all workloads.
    workload : str
        Name of the workload.
    finished : sequence of Trial
        Trials that are not run again.
    attackers : LiveAttackers, optional
        Runs the closed-loop attackers; required if the study has any.
    replay : callable
        Returns the outcome of a configuration for each session.

    Yields
    ------
    Trial or LeftOut

    Raises
    ------
    RunError
        If the finished trials do not belong to this search.
    """
    others = study_without(study, workload)
    left_out = traces.group == traces.groups.index(workload)
    search, held_out = (traces.subset(~left_out & (traces.split == SPLITS.index(name))) for name in SPLITS[:2])
    trials: list[Trial] = []
    for trial, is_new in serial_trials(search, others, finished, attackers, replay):
        trials.append(trial)
        if is_new:
            yield trial
    configs = candidates(found_front(trials, search.sessions, others), others.tuning.search_space)
    config, queries, why_none = None, None, no_candidate(others.tuning)
    if configs:
        live = None if attackers is None else attackers.queries(configs)
        certificate = certify_candidates(others, search, held_out, configs, live, replay)
        if (chosen := certificate.chosen) is None:
            why_none = sessions_missing(certificate)
        else:
            config, queries = configs[chosen], float(certificate.queries[chosen])
    unseen = traces.subset(left_out & (traces.split != SPLITS.index("search")))
    tested = unseen.one_per_client
    in_test = tested & (unseen.split == SPLITS.index("test"))
    blocked = np.zeros(unseen.sessions, np.bool_) if config is None else replay(unseen, config).blocked_at > 0
    yield LeftOut(
        workload=workload,
        limit=study.tuning.limit(workload),
        config=config,
        queries=queries,
        sessions=int(tested.sum()),
        blocked=int(blocked[tested].sum()),
        test_sessions=int(in_test.sum()),
        test_blocked=int(blocked[in_test].sum()),
        why_none=why_none if config is None else None,
    )


def serial_trials(
    search: TraceSet,
    study: Study,
    finished: Sequence[Trial] = (),
    attackers: LiveAttackers | None = None,
    replay: Replay = replay,
) -> Iterator[tuple[Trial, bool]]:
    """Yield the trials of a search, run in this process in the order of their numbers, and whether each one is new.

    Parameters
    ----------
    search : TraceSet
        The search split.
    study, finished, attackers, replay
        See `calibrate_without`.
    """
    known = {trial.number: trial for trial in finished}
    tuning, started = study.tuning, time.monotonic()
    live = (lambda config: NO_LIVE) if attackers is None else (lambda config: attackers.queries([config])[0])
    evaluator = TrialEvaluator(search, tuning, live, replay)
    proposals = Proposals(tuning, study.seed, longest_budget(study), honest_sessions(search, tuning))
    for number in range(tuning.trials):
        config = proposals.ask()
        assert config is not None  # the results of all earlier trials are known
        trial = known.get(number)
        if trial is None:
            trial = Trial(number, config, evaluator.evaluate(config), time.monotonic() - started)
        elif (mismatch := journal_mismatch(trial, config)) is not None:
            raise RunError(mismatch)
        proposals.tell(number, trial.result)
        yield trial, number not in known


def write_left_out(run: Folder, facts: Mapping[str, str], tuning: Tuning, rows: Sequence[LeftOut]) -> None:
    """Write ``leave_out.parquet``: one row for each workload; see `read_left_out`."""
    space = tuning.search_space
    chosen = [row.config is not None for row in rows]

    def if_chosen(values: Sequence[Any]) -> list[Any]:
        return [value if present else None for value, present in zip(values, chosen, strict=True)]

    intervals = [clopper_pearson(row.blocked, row.sessions, tuning.confidence) for row in rows]
    with TableWriter(run / "leave_out.parquet", "leave_out", facts, param_schema("leave_out", space)) as writer:
        writer.write(
            {
                "workload": [row.workload for row in rows],
                **config_columns([row.config for row in rows], space),
                "certified": chosen,
                "limit": [row.limit for row in rows],
                "sessions": [row.sessions for row in rows],
                "blocked": if_chosen([row.blocked for row in rows]),
                "false_positive_rate": if_chosen([row.blocked / row.sessions for row in rows]),
                "low": if_chosen([low for low, _ in intervals]),
                "high": if_chosen([high for _, high in intervals]),
                "test_sessions": [row.test_sessions for row in rows],
                "test_blocked": if_chosen([row.test_blocked for row in rows]),
                "queries_to_block": [row.queries for row in rows],
                "why_none": [row.why_none for row in rows],
            }
        )


def read_left_out(run: Folder) -> list[LeftOut]:
    """Return the rows of ``leave_out.parquet``; none if the run has no such file.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    file = run / "leave_out.parquet"
    if not file.is_file():
        return []
    return [
        LeftOut(
            workload=row["workload"],
            limit=row["limit"],
            config=read_cells(row["kind"], row["config"]) if row["certified"] else None,
            queries=row["queries_to_block"],
            sessions=row["sessions"],
            blocked=row["blocked"] or 0,
            test_sessions=row["test_sessions"],
            test_blocked=row["test_blocked"] or 0,
            why_none=row["why_none"],
        )
        for row in read_single(file, "leave_out").to_pylist()
    ]
