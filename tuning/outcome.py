"""What a calibration leaves behind: the Pareto front, the certification, the chosen configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mifsim._version import __version__
from mifsim.cache import atomic_write
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
"""Of the reference front's hypervolume: a run says after how many trials the search had it."""


def points_of(trials: Sequence[Trial], *, leakage: bool) -> Floats:
    """Return the objectives of trials; shape (n, 2), or (n, 3) with the leakage."""
    rows = [
        (t.result.false_positive_rate, t.result.queries, *((t.result.leak or 0.0,) if leakage else ())) for t in trials
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 3 if leakage else 2)


def found_front(trials: Sequence[Trial], sessions: int, study: Study) -> list[Trial]:
    """Return the trials that no other beats, within the budget, among those scored on all sessions."""
    tuning = study.tuning
    whole = [
        trial
        for trial in trials
        if trial.result.sessions == sessions and trial.result.false_positive_rate <= tuning.false_positive_budget
    ]
    kept = non_dominated(points_of(whole, leakage=tuning.leakage))
    best = [trial for trial, keep in zip(whole, kept, strict=True) if keep]
    return sorted(best, key=lambda trial: (trial.result.false_positive_rate, trial.result.queries))


@dataclass(frozen=True)
class Progress:
    """How much of the reference front the search found.

    Attributes
    ----------
    hypervolume, reference_hypervolume : float
        See `mifsim.pareto.hypervolume`; the reference is that of the grid and the found configurations together, as a
        grid is only so fine.
    trials_to_98 : int or None
        Trials after which 98% of it were found; None where they never were.
    """

    hypervolume: float
    reference_hypervolume: float
    trials_to_98: int | None

    @property
    def share(self) -> float:
        """Of the reference hypervolume."""
        return self.hypervolume / self.reference_hypervolume if self.reference_hypervolume else 1.0


def measure(trials: Sequence[Trial], exact: ParetoFront, study: Study) -> Progress:
    """Compare what the trials found with the reference front."""
    tuning, budget = study.tuning, longest_budget(study)
    points = points_of(trials, leakage=tuning.leakage)

    def volume(some: Floats) -> float:
        return hypervolume(some, budget=budget, fpr_limit=tuning.false_positive_budget)

    reference = volume(np.concatenate([exact.points, points]))
    # The volume only grows with the trials: bisect.
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
    exact: ParetoFront | None,
    certificate: Certificate | None,
    live: Floats | None = None,
    replay: Replay = replay,
) -> None:
    """Write ``pareto.parquet``: what was found, what was tested, what was given, and the reference front.

    `exact` is None where there is no reference front; `live` is what closed-loop attackers do under the given filters
    (see `tuning.objectives.objectives`), one row for each that has a configuration.
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
        queries = certificate.queries[[tested[config]]]  # closed-loop attackers counted in
        scored = evaluate(search, config, study.tuning.attack, queries, replay)
        add("conservative", config, None, scored.false_positive_rate, float(queries[0]))
    if exact is not None:
        for config, (rate, queries, *_) in zip(exact.configs, exact.points.tolist(), strict=True):
            add("reference", config, None, rate, queries)
    given = [(item.name, item.config) for item in study.filters if not item.undefended]
    for number, (name, config) in enumerate(given):
        beside = NO_LIVE if live is None else live[number]
        scored = evaluate(search, config, study.tuning.attack, beside, replay)
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


def guarantee(certificate: Certificate) -> str:
    """Return the guarantee of the chosen configuration, in words."""
    limits = ", ".join(
        f"{limit:.3g} for {name}" for name, limit in zip(certificate.workloads, certificate.limits, strict=True)
    )
    sessions = ", ".join(
        f"{count} of {name}" for name, count in zip(certificate.workloads, certificate.sessions, strict=True)
    )
    return (
        f"With {1 - certificate.delta:.3g} confidence, this configuration blocks at most this share of honest "
        f"sessions: {limits}. Tested on sessions that its search never saw ({sessions}), by exact binomial tests with "
        f"{certificate.method.replace('_', '-')} control of the family-wise error (Learn then Test). It is a "
        "guarantee about sessions like these, for these data, this victim and this transport."
    )


def sessions_missing(certificate: Certificate) -> str:
    """Return why no configuration was certified, and how many sessions it would take, in words."""
    lines = []
    for name, need in certificate.sessions_needed.items():
        available = int(certificate.sessions[certificate.workloads.index(name)])
        rate = "no number at this rate" if need.same_rate is None else f"{need.same_rate:,} at this rate"
        lines.append(f"{name}: {rate}, {need.same_count:,} if no more are blocked (there are {available:,})")
    return "no configuration can be certified; sessions of the calibration split that it would take: " + "; ".join(
        lines
    )


def save_filter(
    path: Folder, study: Study, certificate: Certificate, data: Mapping[str, Any], versions: Mapping[str, str]
) -> None:
    """Write ``filter.toml``: the configuration, its guarantee, the data and the versions behind it."""
    chosen = certificate.chosen
    assert chosen is not None
    numbers = zip(
        certificate.workloads, certificate.limits, certificate.sessions, certificate.blocked[chosen], strict=True
    )
    document = {
        "guarantee": {
            "text": guarantee(certificate),
            "confidence": 1 - certificate.delta,
            "procedure": certificate.method,
            "p_value": float(certificate.p[chosen]),
            "workloads": [
                {
                    "name": name,
                    "false_positive_limit": float(limit),
                    "sessions": int(sessions),
                    "blocked": int(blocked),
                }
                for name, limit, sessions, blocked in numbers
            ],
        },
        "data": {
            "name": data["name"],
            "shape": data["shape"],
            "fingerprint": data["fingerprint"],
            "transport": study.server.transport,
        },
        "versions": {**versions, "mifsim": __version__},
    }
    with atomic_write(path) as temporary:
        certificate.configs[chosen].save(temporary, extra=document)


def figures(test: TraceSet, config: DetectorConfig, confidence: float, replay: Replay = replay) -> list[dict[str, Any]]:
    """Return what a configuration does to each group of the test split, as plain numbers."""
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
