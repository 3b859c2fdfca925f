"""The estimate of the searches of a calibration by replay, before they start."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

import numpy as np

from mifsim.progress import LEAST_SECONDS, duration
from mifsim.study import Study
from tuning.leave_out import trials_without
from tuning.live import longest_budget, runs_live
from tuning.proposals import Proposals
from tuning.replay import honest_sessions
from tuning.tracedata import TraceSet
from tuning.trials import TrialEvaluator

logger = logging.getLogger(__name__)

TRIALS_PER_SECOND = 20.0
"""Rate of the trials of Ray Tune if a replay takes no time."""
_MEASURED = 4
"""Number of replays that are measured, after one that compiles what it needs."""


def seconds_of_trial(search: TraceSet, study: Study) -> float:
    """Return the mean time of some first trials of a search by replay, in seconds.

    Parameters
    ----------
    search : TraceSet
        The search split.
    study : Study
    """
    honest = honest_sessions(search, study.tuning)
    evaluator = TrialEvaluator(search, study.tuning)
    seconds = []
    for seed in range(1 + _MEASURED):
        started = time.perf_counter()
        config = Proposals(study.tuning, seed, longest_budget(study), honest).ask()
        assert config is not None  # the first proposal depends on no result
        evaluator.evaluate(config)
        seconds.append(time.perf_counter() - started)
    return float(np.mean(seconds[1:]))


def report_searches(search: TraceSet, study: Study, compared: Sequence[Study] = ()) -> None:
    """Log the expected time of all searches by replay of a calibration if it is more than a minute.

    Searches in which clients run live are not included; see `tuning.live_estimate`.

    Parameters
    ----------
    search : TraceSet
        The search split.
    study : Study
        The study of the calibration.
    compared : sequence of Study
        The studies of the detectors that are calibrated beside it.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    trials, total = 0, 0.0
    for one in (study, *compared):
        if runs_live(one):
            continue
        tuning = one.tuning
        left_out = len(study.users) * trials_without(tuning) if one is study and tuning.leave_out else 0
        number = tuning.trials + left_out
        trials += number
        total += number * max(seconds_of_trial(search, one) / min(cpus, tuning.concurrent), 1 / TRIALS_PER_SECOND)
    if total > LEAST_SECONDS:
        logger.info("%s trials of the search by replay: about %s on %d CPUs", f"{trials:,}", duration(total), cpus)
