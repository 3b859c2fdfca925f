"""The estimate of what runs live in the trials of a calibration, before it starts."""

from __future__ import annotations

from mifsim.data.base import DataSet
from mifsim.run.estimate import queries_of, report_queries
from mifsim.study import Study
from mifsim.victims import Victim
from tuning.leave_out import trials_without
from tuning.live import closed_loop


def live_queries(study: Study, classes: int) -> int:
    """Return the expected number of queries of the sessions that run live in the trials of a calibration.

    These are the closed-loop attackers of the search split and, for a kind of detector without a replay, all clients of
    this split. An attacker counts with its budget.

    Parameters
    ----------
    study : Study
    classes : int
        Number of classes of the data.
    """
    tuning = study.tuning
    left_out = len(study.users) * trials_without(tuning) if tuning.leave_out else 0
    searches = [(tuning, tuning.trials + left_out)]
    searches += [(one, one.trials) for one in (study.tuning_of(item, "tuning.compare") for item in tuning.compare)]
    attackers, total = closed_loop(study), 0
    for searched, trials in searches:
        clients = attackers if searched.search_space.replayable else study
        total += queries_of(clients, classes, trials * tuning.splits.search)
    return total


def report_live(study: Study, data: DataSet, victim: Victim) -> None:
    """Log the estimate of the sessions that run live in the trials, if it is more than a minute."""
    makers = [item.config.detector for item in study.filters]
    queries = live_queries(study, len(data.class_names))
    report_queries(queries, study, data, makers, victim, "; these run live in the trials of the search")
