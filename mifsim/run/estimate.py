"""A rough estimate of a run's time and memory before it starts, for runs that take more than a minute."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np

from mifsim.data.base import DataSet
from mifsim.defense import Detector, Verdict
from mifsim.progress import LEAST_SECONDS, duration
from mifsim.server.client_specs import expected_queries
from mifsim.study import Study, Users
from mifsim.victims import Victim

logger = logging.getLogger(__name__)

QUERIES_PER_SECOND = (1_000, 10_000)
"""Range of the rate of a run: what the shipped studies reach with their small models on two CPUs. A user's model that
answered fewer images a second when it was checked lowers it."""

LEAST_BYTES = 2**30
_MEASURED_QUERIES = 100

MakeDetector = Callable[[], Detector]
"""Returns the detector of a new session."""


def queries_of(study: Study, classes: int, filters: float) -> int:
    """Return the expected number of queries of all clients under a number of filters.

    An attacker counts with its budget, which it does not use up if it is blocked or stops.

    Parameters
    ----------
    study : Study
    classes : int
        Number of classes of the data.
    filters : float
        Number of filters under which each client runs, on average.
    """
    total = 0.0
    for population in study.populations:
        if isinstance(population, Users):
            clients = population.count
        else:
            clients = population.trials * (classes if population.labels == "all" else len(population.labels))
        total += clients * expected_queries(population)
    return round(total * filters)


def bytes_of_session(make: MakeDetector, data: DataSet) -> int:
    """Return the memory of a detector after `_MEASURED_QUERIES` different images of honest users, in bytes."""
    pool = data.subset("users")
    images = [pool.image(index) for index in np.linspace(0, len(pool) - 1, _MEASURED_QUERIES).astype(int)]
    make().check(images[0])  # imports and compiles what the first detector needs
    tracemalloc.start()
    try:
        detector = make()
        for image in images:
            if detector.check(image) is Verdict.UNSAFE:
                break
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def time_text(queries: int, model_rate: float | None = None) -> str | None:
    """Return how long a number of queries may take, as text; None if it is less than `LEAST_SECONDS`.

    Parameters
    ----------
    queries : int
    model_rate : float or None
        Images a second that the model answered when it was checked; None: not measured, as for models trained here.

    Examples
    --------
    >>> time_text(30_000) is None
    True
    >>> time_text(30_000, 20.0)
    '25 min 0 s at 20 queries a second, as many as the model answered when it was checked'
    """
    low, high = (rate if model_rate is None else min(rate, model_rate) for rate in QUERIES_PER_SECOND)
    if queries / low < LEAST_SECONDS:
        return None
    if low == high:
        rate = f"{low:,.0f}" if low >= 10 else f"{low:.2g}"
        return (
            f"{duration(queries / low)} at {rate} queries a second, as many as the model answered when it was checked"
        )
    return (
        f"{duration(queries / high)} to {duration(queries / low)} at {low:,.0f} to {high:,.0f} queries a second, the "
        "rates of small models on two CPUs; large models and fitted detectors are slower"
    )


def report_estimate(
    study: Study, data: DataSet, makers: Sequence[MakeDetector], victim: Victim, runs: float = 1, further: str = ""
) -> None:
    """Log the expected number of queries and the memory of the detectors, if the run may take more than a minute.

    Parameters
    ----------
    study : Study
    data : DataSet
    makers : sequence of callable
        Each returns a detector, or the recorders, of one session; the greatest memory of one is measured.
    victim : Victim
    runs : float
        Number of times that each client runs, on average: once for each filter, or once for a recording.
    further : str
        Added to the message on the queries.
    """
    report_queries(queries_of(study, len(data.class_names), runs), study, data, makers, victim, further)


def report_queries(
    queries: int,
    study: Study,
    data: DataSet,
    makers: Sequence[MakeDetector],
    victim: Victim,
    further: str = "",
) -> None:
    """Log a number of expected queries and the memory of the detectors; see `report_estimate`."""
    line = time_text(queries, victim.facts.get("images_per_second"))
    if line is None:
        return
    logger.info("about %s queries, if attackers use up their budgets: %s%s", f"{queries:,}", line, further)
    sessions = study.server.sessions_per_host
    memory = sessions * max((bytes_of_session(make, data) for make in makers), default=0)
    if memory > LEAST_BYTES:
        logger.info(
            "the sessions need up to %.1f GiB in each session host: %d queries, as measured, in each of %s sessions "
            "at a time; a smaller server.sessions_per_host needs less",
            memory / 2**30,
            _MEASURED_QUERIES,
            f"{sessions:,}",
        )
