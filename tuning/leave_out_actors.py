"""Calibrations without each workload, in parallel on Ray: one actor for each CPU runs them one after the other.

They do not go through Ray Tune, which starts actors for each search, runs only ``tuning.concurrent`` trials at a time,
and takes longer to hand a trial out than its replay takes. The calibrations do not depend on each other: on two CPUs,
running each one in a single process takes about a third of the time, and its certification runs in parallel, too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from mifsim.errors import ClusterError, RunError, UserError
from mifsim.server.ray.cluster import nodes, translate_errors
from mifsim.server.ray.placement import capacity
from mifsim.study import Study
from mifsim.study.splitting import SPLITS
from mifsim.victims import ModelSource
from tuning.leave_out import LeftOut, calibrate_without
from tuning.replay_trial import live_clients
from tuning.search import trial_cluster
from tuning.tracedata import TraceSet
from tuning.trials import Trial

STEP_SECONDS = 1.0
"""Time after which an actor returns its finished trials; it returns at least one."""
MOST_LOSSES = 5
"""Maximum number of lost actors without a finished trial in between. More often, the cause is not a lost node."""

Event = Trial | LeftOut


@ray.remote(num_cpus=1, max_restarts=-1)
class Calibrator:
    """Runs one calibration at a time. Ray restarts a lost actor, which is then set up and started again."""

    def __init__(self) -> None:
        self._steps: Iterator[Event] = iter(())
        self._position: tuple[str, int] | None = None

    # Not arguments of the actor: those in the object store may be lost before a restart.
    @ray.method(max_task_retries=-1)  # type: ignore[untyped-decorator]  # Ray is not typed
    def set_up(self, traces: TraceSet, study: Study, models: Sequence[tuple[str, str]]) -> list[Event] | str:
        """Prepare calibrations; return no event, or an error message.

        Parameters
        ----------
        traces : TraceSet
        study : Study
        models : sequence of (str, str)
            See `ReplayTrial.setup`.
        """
        self._traces, self._study = traces, study
        try:
            self._attackers, self._replay = live_clients(study, models)
        except UserError as error:
            return str(error)
        return []

    def start(self, workload: str, finished: Sequence[Trial]) -> list[Event]:
        """Start the calibration without a workload; nothing is run yet."""
        self._steps = calibrate_without(self._traces, self._study, workload, finished, self._attackers, self._replay)
        self._position = workload, len(finished)
        return []

    def advance(self, workload: str, finished: int, seconds: float) -> list[Event] | str | None:
        """Continue a calibration for a while; return the new trials and at last the result, or an error message.

        None: the actor was restarted, so the calibration must be started again after `finished` trials.
        """
        if self._position != (workload, finished):
            return None
        started = time.monotonic()
        events: list[Event] = []
        try:
            while not events or time.monotonic() - started < seconds:
                events.append(next(self._steps))
                if isinstance(events[-1], LeftOut):
                    break
        except UserError as error:
            return str(error)
        except Exception as error:  # an error of a plug-in's detector or client
            return f"{type(error).__name__}: {error}"
        self._position = workload, finished + len(events)
        return events


def calibrate_all(
    traces: TraceSet,
    study: Study,
    wanted: Mapping[str, Sequence[Trial]],
    address: str | None = None,
    model: ModelSource | None = None,
) -> Iterator[tuple[str, Event]]:
    """Calibrate without each of several workloads; yield trials and results as they are finished.

    Parameters
    ----------
    traces : TraceSet
        All splits.
    study : Study
    wanted : mapping of str to sequence of Trial
        The workloads, and the finished trials of each.
    address : str or None
        Address of a Ray cluster. None starts a local one.
    model : ModelSource, optional
        The victim. Required if clients run live in every trial; see `tuning.live.runs_live`.

    Yields
    ------
    workload : str
    event : Trial or LeftOut
        See `calibrate_without`.

    Raises
    ------
    RunError
        If a calibration fails; the message names the workload.
    ClusterError
        If the cluster fails, or actors are lost again and again.
    """
    # Attack sessions of the other splits are not needed.
    used = traces.subset(~traces.is_attack | (traces.split == SPLITS.index("search")))
    with trial_cluster(study, address, model) as replicas, translate_errors():
        count = min(len(wanted), max(1, capacity(nodes(), 1.0)))
        actors = [Calibrator.remote() for _ in range(count)]  # type: ignore[attr-defined]
        arguments = ray.put(used), study, replicas
        try:
            yield from _run(actors, arguments, {workload: list(trials) for workload, trials in wanted.items()})
        finally:
            for actor in actors:
                ray.kill(actor)


def _run(
    actors: Sequence[Any], arguments: tuple[Any, ...], finished: dict[str, list[Trial]]
) -> Iterator[tuple[str, Event]]:
    """Give each actor that is set up the next workload, until all are finished."""
    waiting, left, losses = deque(finished), len(finished), 0
    # The call in progress of each actor, and its workload; an actor that is not set up yet has none.
    calls: dict[Any, tuple[Any, str | None]] = {actor.set_up.remote(*arguments): (actor, None) for actor in actors}
    while left:
        [call], _ = ray.wait(list(calls), num_returns=1)
        actor, workload = calls.pop(call)
        try:
            events = ray.get(call)
        except RayActorError as error:
            losses += 1
            if losses > MOST_LOSSES:
                raise ClusterError(f"leaving out workloads: actors are lost again and again: {error}") from None
            if workload is not None:
                waiting.appendleft(workload)
            calls[actor.set_up.remote(*arguments)] = actor, None
            continue
        if isinstance(events, str):
            raise RunError(events if workload is None else f"calibration without {workload!r}: {events}")
        if events is None:
            assert workload is not None
            calls[actor.start.remote(workload, finished[workload])] = actor, workload
            continue
        for event in events:
            assert workload is not None
            losses = 0
            yield workload, event
            if isinstance(event, Trial):
                finished[workload].append(event)
            else:
                left, workload = left - 1, None
        if workload is None and waiting:
            workload = waiting.popleft()
            calls[actor.start.remote(workload, finished[workload])] = actor, workload
        elif workload is not None:
            calls[actor.advance.remote(workload, len(finished[workload]), STEP_SECONDS)] = actor, workload
        else:
            ray.kill(actor)  # frees its CPU for an actor that waits for one
