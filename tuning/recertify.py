"""A new certification of a deployed configuration on a period of the guard's own log.

The sessions of the period are replayed under the deployed configuration and under copies of it that block less, and
tested by Learn then Test, as in a calibration. What the log cannot tell counts against a configuration.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from mifsim.defense import DetectorConfig, load_config
from mifsim.defense.fitted import load_fit
from mifsim.errors import RunError
from mifsim.guard.certified import digest_of
from mifsim.run.folder import check_free, read_facts, versions
from mifsim.run.inputs import data_facts, load_inputs
from mifsim.server.backend import Backend
from mifsim.statistics import sessions_needed
from mifsim.study import Study
from mifsim.watch.near_misses import BINS, Baseline
from mifsim.watch.promise import Promise
from tuning.certify import STEPS, Certificate
from tuning.guarantee import save_filter
from tuning.hypotheses import fixed_sequence, p_values
from tuning.near_misses import add_near_misses
from tuning.period import Period, copy_drawn, sessions_of_period
from tuning.replay import replay
from tuning.splits import calibration_images
from tuning.trace_loading import load
from tuning.tracedata import Bools, TraceSet
from tuning.traces import record

logger = logging.getLogger(__name__)

WORKLOAD = "log"
"""Name of the workload."""


@dataclass(frozen=True)
class Recertified:
    """The result.

    Attributes
    ----------
    certificate : Certificate
        The candidates in the order of testing: the one that blocks least first, and the deployed one last.
    period : Period
    text : str
        The guarantee, or how many sessions are missing.
    path : Path or None
        The new ``filter.toml``; None if no candidate is certified.
    """

    certificate: Certificate
    period: Period
    text: str
    path: Path | None


def candidates_in_order(deployed: DetectorConfig) -> list[DetectorConfig]:
    """Return copies of a configuration that block less, the one that blocks least first, followed by itself.

    The order depends on no data. Of a kind with thresholds, the copies have all of them relaxed, by the same steps as
    in a calibration; of another kind, they have one number relaxed. Where each candidate blocks all sessions that those
    before it block, the sequence costs the deployed configuration nothing: if it passes, so do all before it.
    """
    thresholds = [
        name for name, param in deployed.params.items() if param.strictness and not param.whole and param.off is None
    ]
    copies = deployed.conservative(STEPS)
    chosen = copies[: len(STEPS)] if thresholds else copies
    return [*dict.fromkeys(copy for copy in reversed(chosen) if copy != deployed), deployed]


def recertify(
    run: Path,
    log: Path,
    start: float,
    end: float,
    out: Path,
    backend: Backend,
    *,
    lasting: float = 86_400.0,
    limit: float | None = None,
) -> Recertified:
    """Test the configuration of a run on all sessions of a period of a guard's log.

    Parameters
    ----------
    run : Path
        Folder of the calibration.
    log : Path
    start, end : float
        The period, in seconds since 1970. It must be fixed before anybody has looked at its sessions.
    out : Path
        Folder of the new ``filter.toml``; it must be empty or not exist.
    backend : Backend
        Where the sessions are recorded.
    lasting : float
        Longest time that a session lasts, in seconds: the guard's ``sessions.period``.
    limit : float or None
        Share of sessions that may be blocked; None: the largest limit in the run's guarantee.

    Raises
    ------
    UserError
        If run or log are not valid, or the configuration cannot be replayed on single sessions.
    """
    check_free(out)
    deployed, study, limit = _deployed(run, limit)
    period = sessions_of_period(log, start, end, lasting)
    logger.info(
        "%d sessions of %d clients started in the period; one of each client is tested", period.found, len(period.drawn)
    )
    configs = candidates_in_order(deployed)
    with tempfile.TemporaryDirectory(prefix="mifsim-period-") as folder:
        copy_drawn(log, period, Path(folder) / "log")
        study, data, victim = load_inputs(_study_of(study, Path(folder) / "log", configs, limit))
        known = read_facts(run).get("victim", {}).get("fingerprint")
        if known not in (None, victim.fingerprint):
            raise RunError(
                f"{run}: the victim has fingerprint {victim.fingerprint}, but the run's had {known} (expected the same)"
            )
        recording = record(study, data, victim, backend)
        traces = load(recording.path, study)
        images = calibration_images(study, data)
        certificate = _certified(traces, _log_clients(study), period, configs, limit, 1 - study.tuning.confidence)
        if certificate.chosen is None:
            return Recertified(certificate, period, _missing(certificate, period), None)
        text = _guarantee(certificate, period)
        path = out / "filter.toml"
        save_filter(path, study, certificate, images, data_facts(data), victim.facts, versions(), text)
    if (baseline := _baseline(certificate, deployed, period)) is not None:
        add_near_misses(path, baseline)
    return Recertified(certificate, period, text, path)


def _deployed(run: Path, limit: float | None) -> tuple[DetectorConfig, Study, float]:
    if "tuning" not in read_facts(run):
        raise RunError(f"{run}: not a calibration (expected a run folder of mifsim tune)")
    file = run / "filter.toml"
    if not file.is_file():
        raise RunError(f"{file}: missing; the calibration certified no configuration")
    config = load_config(file)
    load_fit(config, run)
    for problem, is_so in (
        (f"kind = {config.kind!r}: has no replay, and cannot be judged on a log", not config.replayable()),
        (
            "scope = 'client': its counts continue over the sessions of a client, also from before the period; "
            "calibrate with mifsim tune and a [[users]] table with user = 'log'",
            config.scope == "client",
        ),
    ):
        if is_so:
            raise RunError(f"{file}: {problem}")
    found = Promise.read(file).limit if limit is None else limit
    if found is None:
        raise RunError(f"{file}: has no [guarantee] (expected one, or --limit)")
    return config, Study.load(run / "study.toml"), found


def _study_of(study: Study, log: Path, configs: Sequence[DetectorConfig], limit: float) -> Study:
    """Return the run's study with the log as its only clients, and the candidates as its filters."""
    table = study.to_toml()
    for key in ("attacks", "matrix", "bench"):
        table.pop(key, None)
    dropped = ("compare", "leave_out", "leave_out_trials", "grid")
    table["tuning"] = {key: value for key, value in table["tuning"].items() if key not in dropped} | {
        "false_positive_limit": limit
    }
    table["users"] = [
        {
            "user": "log",
            "name": WORKLOAD,
            "path": str(log.resolve()),
            "sessions": "all",
            "session_column": "session",
        }
    ]
    table["leakage"] = {**table.get("leakage", {}), "enabled": False}
    table["filters"] = [{"name": f"candidate {i}", **config.to_dict()} for i, config in enumerate(configs)]
    return Study.parse(table, str(study.name), Path.cwd())


def _log_clients(study: Study) -> list[str]:
    """Return the clients of the log, in the order of the numbers in the ids of the study's clients."""
    log = study.users[0].log()
    assert log is not None
    return list(log.clients)


def _certified(
    traces: TraceSet,
    clients: Sequence[str],
    period: Period,
    configs: Sequence[DetectorConfig],
    limit: float,
    delta: float,
) -> Certificate:
    """Test the candidates in their order, each on every drawn session."""
    names = [clients[int(client.rpartition("/")[2])] for client in traces.clients.tolist()]
    complete = {name for name, log_rows in zip(names, np.diff(traces.offsets).tolist(), strict=True) if log_rows}
    number = len(period.drawn)
    blocked = []
    for config in configs:
        stopped = {name for name, at in zip(names, replay(traces, config).blocked_at.tolist(), strict=True) if at}
        cut = {client for client, session in period.drawn.items() if session.cut or client not in complete}
        blocked.append([len(stopped | cut)])
    p = p_values(np.array(blocked), [number], [limit])
    passed: Bools = fixed_sequence(p, delta)
    lengths = np.diff(traces.offsets)
    return Certificate(
        configs=tuple(configs),
        workloads=(WORKLOAD,),
        limits=np.array([limit]),
        delta=delta,
        method="fixed_sequence",
        sessions=np.array([number]),
        longest=np.array([int(lengths.max(initial=0))]),
        blocked=np.array(blocked),
        p=p,
        order=tuple(range(len(configs))),
        certified=passed,
        # A later candidate blocks earlier, so it is preferred; the log has no attackers by which to tell how much.
        queries=np.arange(len(configs), 0, -1, dtype=np.float64),
    )


def _words(period: Period) -> str:
    start, end = (f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}" for time in (period.start, period.end))
    return f"from {start} to {end} UTC"


def _guarantee(certificate: Certificate, period: Period) -> str:
    chosen = certificate.chosen
    assert chosen is not None
    limit, sessions = float(certificate.limits[0]), int(certificate.sessions[0])
    blocked, longest = int(certificate.blocked[chosen, 0]), int(certificate.longest[0])
    cut = sum(session.cut for session in period.drawn.values())
    left_out = "queries without an answer"
    if period.without_start:
        left_out += f", and {period.without_start:,} sessions whose first query is not in the log"
    return (
        f"With {1 - certificate.delta:.3g} confidence, this configuration blocks at most this share of sessions like "
        f"those of the guard's log: {limit:.3g}. It was tested on all sessions that started {_words(period)}, one of "
        f"each client, drawn at random ({sessions:,} of {period.found:,}), of which {blocked:,} count as blocked, by "
        f"exact binomial tests in a fixed sequence of {len(certificate.order)} configurations (Learn then Test). "
        f"{cut:,} sessions count as blocked under every configuration, because the guard had blocked them, a row of "
        f"them is missing, or they may not have ended with the log. Left out were {left_out}. The guarantee assumes "
        "that the period was fixed before anybody looked at its sessions, and that different clients do not depend on "
        "each other. Sessions of attackers in the period count as honest ones, which makes it harder to pass. The "
        f"longest sessions had {longest:,} queries. The guarantee applies to sessions like these, and no longer, for "
        "these data, this victim and this transport."
    )


def _missing(certificate: Certificate, period: Period) -> str:
    number, limit = int(certificate.sessions[0]), float(certificate.limits[0])
    lines = []
    for name, j in (("the deployed configuration", -1), ("the candidate that blocks least", 0)):
        blocked = int(certificate.blocked[j, 0])
        need = sessions_needed(blocked, number, limit, certificate.delta)
        rate = "no number at this rate" if need.same_rate is None else f"{need.same_rate:,} at this rate"
        lines.append(f"{name}, which blocks {blocked:,}: {rate}, {need.same_count:,} if no more are blocked")
    return (
        f"no configuration can be certified at a limit of {limit:.3g} with the sessions {_words(period)}, one of each "
        f"of {number:,} clients; sessions needed by {'; '.join(lines)}"
    )


def _baseline(certificate: Certificate, deployed: DetectorConfig, period: Period) -> Baseline | None:
    """Return how near the sessions came to a block, which the log states for the deployed configuration only."""
    chosen = certificate.chosen
    assert chosen is not None
    digests = {session.filter for session in period.drawn.values()}
    if certificate.configs[chosen] != deployed or digests != {digest_of(deployed)}:
        return None
    bins = [BINS - 1 if session.cut else session.nearness for session in period.drawn.values()]
    histogram = np.bincount(bins, minlength=BINS).tolist()
    return Baseline((WORKLOAD,), (tuple(histogram),), len(certificate.order))
