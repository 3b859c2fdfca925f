"""Results of a calibration: the Pareto front, the certification, and the figures on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mifsim.defense import DetectorConfig
from mifsim.defense.space import SearchSpace
from mifsim.pareto import hypervolume, non_dominated
from mifsim.study import Study
from mifsim.tables.records import TableWriter
from mifsim.tables.storage import Folder
from tuning.assess import assess
from tuning.certify import Certificate
from tuning.live import longest_budget
from tuning.objectives import NO_LIVE, evaluate
from tuning.params import config_columns, param_schema
from tuning.reference_front import ParetoFront
from tuning.replay import Replay, replay
from tuning.tracedata import Floats, TraceSet
from tuning.trials import Trial

SHARE_WANTED = 0.98
"""Share of the reference hypervolume; a run reports after how many trials the search reached it."""


def points_of(trials: Sequence[Trial], *, leakage: bool) -> Floats:
    """Return the objectives of n trials.

    Parameters
    ----------
    trials : sequence of Trial
    leakage : bool
        Whether leakage at block is the third objective.

    Returns
    -------
    ndarray of shape (n, 2 or 3)
        False-positive rate, queries to block and, with `leakage`, leakage at block.
    """
    rows = [
        (t.result.false_positive_rate, t.result.queries, *((t.result.leak or 0.0,) if leakage else ())) for t in trials
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 3 if leakage else 2)


def found_front(trials: Sequence[Trial], sessions: int, study: Study) -> list[Trial]:
    """Return the non-dominated trials within the false-positive budget that were evaluated on all sessions.

    Parameters
    ----------
    trials : sequence of Trial
    sessions : int
        Number of sessions of the search split. Pruned trials were evaluated on fewer and are left out.
    study : Study
        The study whose budget and objectives are used.

    Returns
    -------
    list of Trial
        In ascending order of false-positive rate.
    """
    tuning = study.tuning
    complete = [
        trial
        for trial in trials
        if trial.result.sessions == sessions and trial.result.false_positive_rate <= tuning.false_positive_budget
    ]
    kept = non_dominated(points_of(complete, leakage=tuning.leakage))
    front = [trial for trial, keep in zip(complete, kept, strict=True) if keep]
    return sorted(front, key=lambda trial: (trial.result.false_positive_rate, trial.result.queries))


@dataclass(frozen=True)
class Progress:
    """Progress of a search, measured against the reference front.

    Attributes
    ----------
    hypervolume : float
        Hypervolume of the trials, in [0, 1]; see `mifsim.pareto.hypervolume`.
    reference_hypervolume : float
        Hypervolume of the reference front and the trials together, in [0, 1]: trials can lie between grid points.
    trials_to_98 : int or None
        Number of trials after which 98% of the reference hypervolume was reached; None if it never was.
    """

    hypervolume: float
    reference_hypervolume: float
    trials_to_98: int | None

    @property
    def share(self) -> float:
        """Share of the reference hypervolume that was reached, in [0, 1]."""
        return self.hypervolume / self.reference_hypervolume if self.reference_hypervolume else 1.0


def measure(trials: Sequence[Trial], reference_front: ParetoFront, study: Study) -> Progress:
    """Return the progress of the trials, measured against the reference front."""
    tuning, budget = study.tuning, longest_budget(study)
    points = points_of(trials, leakage=tuning.leakage)

    def volume(selected: Floats) -> float:
        return hypervolume(selected, budget=budget, fpr_limit=tuning.false_positive_budget)

    reference = volume(np.concatenate([reference_front.points, points]))
    # The volume never decreases with the number of trials, so bisection finds the first trial that reaches the share.
    low, high = 0, len(points) + 1
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if volume(points[:middle]) >= SHARE_WANTED * reference else (middle, high)
    return Progress(volume(points), reference, high if high <= len(points) else None)


def write_pareto(
    run: Folder,
    facts: Mapping[str, str],
    study: Study,
    search: TraceSet,
    found: Sequence[Trial],
    reference: ParetoFront | None,
    certificate: Certificate | None,
    live: Floats | None = None,
    replay: Replay = replay,
) -> None:
    """Write ``pareto.parquet``: the configurations found, tested and given in the study, and the reference front.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder.
    facts : mapping of str to str
        Metadata of the Parquet file.
    study : Study
        The study; its filters that have a configuration get rows with the source ``given``.
    search : TraceSet
        The search split.
    found : sequence of Trial
        See `found_front`.
    reference : ParetoFront or None
        The reference front; None if the kind has none.
    certificate : Certificate or None
        The tested candidates; None if there was no candidate.
    live : ndarray of shape (J, L), optional
        Queries to block of L closed-loop attacks under each of the study's J filters with a configuration; see
        `tuning.objectives.objectives`.
    replay : callable
        Returns the outcome of a configuration for each session.
    """
    tested: dict[DetectorConfig, int] = {}
    chosen = None
    if certificate is not None:
        tested = {certificate.configs[j]: j for j in certificate.order}
        chosen = certificate.configs[certificate.chosen] if certificate.chosen is not None else None
    rows: list[dict[str, Any]] = []

    def add(source: str, config: DetectorConfig, name: str | None, rate: float, queries: float) -> None:
        j = tested.get(config) if source in ("search", "conservative") else None
        rows.append(
            {
                "source": source,
                "config": config,
                "name": name,
                "queries_to_block": queries,
                "false_positive_rate": rate,
                "p_value": None if j is None or certificate is None else float(certificate.p[j]),
                "certified": None if j is None or certificate is None else bool(certificate.certified[j]),
                "chosen": j is not None and config == chosen,
            }
        )

    for trial in found:
        add("search", trial.config, None, trial.result.false_positive_rate, trial.result.queries)
    for config in [config for config in tested if config not in {trial.config for trial in found}]:
        assert certificate is not None
        queries = certificate.queries[[tested[config]]]  # includes the closed-loop attackers
        scored = evaluate(search, config, study.tuning.attack, queries, replay)
        add("conservative", config, None, scored.false_positive_rate, float(queries[0]))
    if reference is not None:
        for config, (rate, queries, *_) in zip(reference.configs, reference.points.tolist(), strict=True):
            add("reference", config, None, rate, queries)
    given = [(item.name, item.config) for item in study.filters if not item.undefended]
    for number, (name, config) in enumerate(given):
        live_queries = NO_LIVE if live is None else live[number]
        scored = evaluate(search, config, study.tuning.attack, live_queries, replay)
        add("given", config, name, scored.false_positive_rate, scored.queries)
    rows.sort(key=lambda row: (row["source"], row["false_positive_rate"], row["queries_to_block"]))
    space = study.tuning.search_space
    with TableWriter(run / "pareto.parquet", "pareto", facts, param_schema("pareto", space)) as writer:
        configs = config_columns([row.pop("config") for row in rows], space)
        names = [name for name in writer.schema.names if name not in configs]
        writer.write({**configs, **{name: [row[name] for row in rows] for name in names}})


def write_certification(run: Folder, facts: Mapping[str, str], space: SearchSpace, certificate: Certificate) -> None:
    """Write ``certification.parquet``: every tested configuration on every workload, in the order of testing."""
    from tuning.hypotheses import p_values

    pairs = [(j, w) for j in certificate.order for w in range(len(certificate.workloads))]
    configs = [certificate.configs[j] for j, _ in pairs]
    blocked = [int(certificate.blocked[j, w]) for j, w in pairs]
    sessions = [int(certificate.sessions[w]) for _, w in pairs]
    limits = [float(certificate.limits[w]) for _, w in pairs]
    schema = param_schema("certification", space)
    with TableWriter(run / "certification.parquet", "certification", facts, schema) as writer:
        writer.write(
            {
                **config_columns(configs, space),
                "workload": [certificate.workloads[w] for _, w in pairs],
                "limit": limits,
                "sessions": sessions,
                "blocked": blocked,
                "p_value": [
                    float(p_values([b], [n], [limit])) for b, n, limit in zip(blocked, sessions, limits, strict=True)
                ],
                "chosen": [j == certificate.chosen for j, _ in pairs],
            }
        )


def figures(test: TraceSet, config: DetectorConfig, confidence: float, replay: Replay = replay) -> list[dict[str, Any]]:
    """Return the figures of a configuration for each group of the test split as plain data; see `tuning.assess`."""
    return [
        {
            "group": found.group,
            "role": "attacker" if found.is_attack else "user",
            "sessions": found.sessions,
            "blocked": found.blocked,
            "blocked_low": found.low,
            "blocked_high": found.high,
            "queries_to_block": found.queries if found.is_attack else None,
        }
        for found in assess(test, config, confidence, replay)
    ]
