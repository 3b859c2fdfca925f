"""The search on Ray Tune: runs the trials that `Proposals` proposes, and records them in the journal."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from mifsim.defense import DetectorConfig
from mifsim.errors import RunError
from mifsim.progress import Bar
from mifsim.server.ray.cluster import autoscaled, connected, nodes, translate_errors, wait_for_cpu, wait_for_place
from mifsim.server.ray.models import Models, drop_divergent_replicas, start_models
from mifsim.server.ray.placement import capacity, model_beside_trials
from mifsim.study import Study
from mifsim.victims import ModelSource
from tuning.live import longest_budget
from tuning.proposals import Proposals
from tuning.replay import honest_sessions
from tuning.replay_trial import ReplayTrial
from tuning.tracedata import TraceSet
from tuning.trials import Journal, Trial, TrialResult, journal_mismatch

ATTEMPTS = 3
"""Maximum number of Tune runs in one search.

Tune restarts a trial whose actor or node died. Sometimes (Ray 2.60) it counts one death twice and fails the trial in
spite of ``max_failures``; the search then resumes from the journal. An error in the trial itself recurs each time.
"""

_QUIET = {
    # By default, Tune writes result.json, CSV and TensorBoard files for every trial.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's handler would ignore the first Ctrl-C; the run's own handler marks the run as interrupted.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A search resumes from the journal, not from Tune's checkpoint.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # Tune's newer output prints a heading even at verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
}


class FromProposals(Searcher):  # type: ignore[misc]  # Ray is not typed
    """Tune searcher that suggests the configurations of `Proposals` and skips finished trials.

    Parameters
    ----------
    proposals : Proposals
        The source of configurations.
    finished : mapping of int to Trial
        Trials finished before this search was resumed, by number. They do not run again; their results are passed to
        `proposals`.
    done : callable
        Called with number, configuration and result of each trial as it finishes.

    Attributes
    ----------
    mismatch : str or None
        Message about a journal that does not fit the proposals.
    trial_error : str or None
        Message about a trial that failed.
    disk_error : OSError or None
        Error of `done`, such as a full disk.
    """

    def __init__(
        self,
        proposals: Proposals,
        finished: Mapping[int, Trial],
        done: Callable[[int, DetectorConfig, TrialResult], None],
    ) -> None:
        super().__init__()
        self._proposals = proposals
        self._finished = finished
        self._done = done
        self._running: dict[str, tuple[int, DetectorConfig]] = {}
        self.mismatch: str | None = None
        self.trial_error: str | None = None
        self.disk_error: OSError | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next configuration, None if it depends on a missing result, or "FINISHED" after an error."""
        while self.mismatch is None and self.trial_error is None and self.disk_error is None:
            number = self._proposals.asked
            config = self._proposals.ask()
            if config is None:
                return None
            finished = self._finished.get(number)
            if finished is None:
                self._running[trial_id] = number, config
                return config.to_dict()
            if (mismatch := journal_mismatch(finished, config)) is not None:
                self.mismatch = mismatch
                break
            self._proposals.tell(number, finished.result)
        return Searcher.FINISHED  # type: ignore[no-any-return]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass a trial's result to the proposals and to `done`."""
        number, config = self._running.pop(trial_id)
        if error or result is None:
            self.trial_error = f"trial {number} failed: {config}"
            return
        found = TrialResult(**{key: result[key] for key in TrialResult.__dataclass_fields__})
        self._proposals.tell(number, found)
        try:
            self._done(number, config, found)
        except OSError as disk_error:  # kept: Tune would report it as a failed trial
            self.disk_error = disk_error

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the journal holds the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its configuration for `Tuner.restore`, which is never called. The state is left out because
        # `done` refers to the progress bar's lock and the open journal, which cannot be pickled.
        return {}


def search(
    traces: TraceSet, study: Study, journal: Journal, address: str | None = None, model: ModelSource | None = None
) -> list[Trial]:
    """Run the study's trials, except those already in the journal.

    Parameters
    ----------
    traces : TraceSet
        The search split.
    study : Study
        The study; ``tuning.trials`` is the number of trials.
    journal : Journal
        Each trial is recorded in it as soon as it is finished; at the end it becomes a table.
    address : str or None
        Address of a Ray cluster. None starts a local one.
    model : ModelSource, optional
        The victim. Required if clients run live in every trial; see `tuning.live.runs_live`.

    Returns
    -------
    list of Trial
        In the order in which they were proposed.

    Raises
    ------
    RunError
        If a trial fails, or the journal does not belong to this search.
    OSError
        If a trial cannot be written to the journal.
    """
    tuning = study.tuning
    finished = {trial.number: trial for trial in journal.read() if trial.number < tuning.trials}
    if len(finished) < tuning.trials:
        with journal:
            _run(traces, study, journal, finished, address, model)
    trials = journal.read()[: tuning.trials]
    journal.finish(trials)
    return trials


def _run(
    traces: TraceSet,
    study: Study,
    journal: Journal,
    resumed: Mapping[int, Trial],
    address: str | None,
    model: ModelSource | None,
) -> None:
    tuning = study.tuning
    limit = min(tuning.limit(users.name) for users in study.users)
    best = min(
        (t.result.queries for t in resumed.values() if t.result.false_positive_rate <= limit), default=float("inf")
    )
    elapsed = max((trial.elapsed_seconds for trial in resumed.values()), default=0.0)
    count = len(resumed)
    honest = honest_sessions(traces, tuning)
    with (
        trial_cluster(study, address, model) as replicas,
        Bar("searching", tuning.trials, "trials", tuning.trials - count) as bar,
    ):
        started = time.monotonic()

        def done(number: int, config: DetectorConfig, found: TrialResult) -> None:
            nonlocal best, count
            count += 1
            journal.append(Trial(number, config, found, elapsed + time.monotonic() - started))
            if found.false_positive_rate <= limit:
                best = min(best, found.queries)
            status = (
                f"best so far: {best:.1f} queries to block"
                if best < float("inf")
                else "no configuration within the false-positive limit yet"
            )
            bar.update(count, status, count - len(resumed))

        finished = resumed
        for attempts_left in reversed(range(ATTEMPTS)):
            proposals = Proposals(tuning, study.seed, longest_budget(study), honest)
            searcher = FromProposals(proposals, finished, done)
            with translate_errors():
                _fit(traces, study, replicas, searcher, tuning.trials - len(finished), capacity(nodes(), 1.0))
            if searcher.disk_error is not None:
                raise searcher.disk_error
            if searcher.mismatch is not None:
                raise RunError(searcher.mismatch)
            if searcher.trial_error is None:
                break
            if not attempts_left:
                raise RunError(searcher.trial_error)
            finished = {trial.number: trial for trial in journal.read() if trial.number < tuning.trials}


@contextmanager
def trial_cluster(study: Study, address: str | None, model: ModelSource | None) -> Iterator[list[tuple[str, str]]]:
    """Connect to a Ray cluster for trials, and yield the name and the node id of each replica of the model.

    Parameters
    ----------
    study : Study
    address : str or None
        Address of a Ray cluster. None starts a local one, which ends with the context.
    model : ModelSource or None
        The victim; None: no replica is started.
    """
    with connected(address):
        models = Models([], [])
        with autoscaled(study.server):
            # Check the resources first: trials would wait silently for resources that the cluster lacks.
            placement = model_beside_trials(study.server, nodes())
            if model is not None:
                models = start_models(study, model, placement)
                wait_for_place(models.up(), placement.model_cpus)
                models = drop_divergent_replicas(models, study, model.deterministic, model.gradients)
            wait_for_cpu()
        yield list(zip(models.names, models.node_ids(), strict=True))


def _fit(
    traces: TraceSet,
    study: Study,
    models: Sequence[tuple[str, str]],
    searcher: FromProposals,
    trials: int,
    max_concurrent: int,
) -> None:
    # Limit the concurrent trials to the free CPUs. For further trials, Tune requests placement groups and removes them
    # when an actor becomes free. That sometimes (Ray 2.60, several nodes) leaks a CPU until its node restarts, and a
    # task that needs all CPUs then waits forever.
    with tempfile.TemporaryDirectory(prefix="mifsim-tune-") as scratch, _environment(_QUIET):
        trainable = tune.with_parameters(ReplayTrial, traces=traces, study=study, models=models)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=trials, reuse_actors=True, max_concurrent_trials=max_concurrent
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    previous = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in previous.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
