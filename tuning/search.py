"""The search: Ray Tune runs the trials, `Proposals` says which, the journal keeps them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from mifsim.defense import DetectorConfig
from mifsim.defense.kinds import read_config
from mifsim.errors import RunError
from mifsim.progress import Bar
from mifsim.server.backend import ModelFile
from mifsim.server.ray.cluster import autoscaled, connect, nodes, translate_errors, wait_for_cpu, wait_for_place
from mifsim.server.ray.models import Models, drop_divergent_replicas, nearest_copy, start_models
from mifsim.server.ray.placement import capacity, model_beside_trials
from mifsim.study import Study
from tuning.live import Ask, Images, Labels, LiveAttackers, LiveReplay, longest_budget
from tuning.objectives import NO_LIVE
from tuning.proposals import Proposals
from tuning.tracedata import TraceSet
from tuning.trials import Journal, Trial, TrialEvaluator, TrialResult

ATTEMPTS = 3
"""To finish the trials. Tune starts a trial again whose actor died, alone or with its node. But now and then (Ray
2.60) it notices one death twice, and the second time gives the trial up, whatever its ``max_failures``: then the search
goes on from the journal, as a resumed one does. An error of the trial's own is the same every time."""

_QUIET = {
    # Tune writes result.json, CSV and TensorBoard files for every trial unless told otherwise.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Its handler would swallow the first Ctrl-C; ours marks the run as interrupted.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The journal is what a search is resumed from, not Tune's own checkpoint.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # Its newer output prints a heading even at verbose=0.
    "RAY_AIR_NEW_OUTPUT": "0",
}


class ReplayTrial(tune.Trainable):  # type: ignore[misc]  # Ray is not typed
    """One configuration, replayed. Tune keeps the actor for the next trial: traces are mapped and prepared once."""

    def setup(self, config: dict[str, Any], traces: TraceSet, study: Study, models: Sequence[tuple[str, str]]) -> None:
        """Take the first configuration; `traces` come out of the object store, not copied.

        `models` are the names of the model's actors, each with its node. This trial asks one, on its own node where
        there is one, for what runs live in this very process: closed-loop attackers, and all clients of a kind without
        a replay. Empty: nothing does.
        """
        if not models:
            self._evaluator = TrialEvaluator(traces, study.tuning)
        else:
            ask = _model_of_actor(nearest_copy(*zip(*models, strict=True)))
            replay = LiveReplay(study, ask)
            if any(attack.closed_loop for attack in study.attacks):
                attackers = LiveAttackers(study, ask)
                live = lambda config: attackers.queries([config])[0]  # noqa: E731
            else:
                live = lambda config: NO_LIVE  # noqa: E731
            self._evaluator = TrialEvaluator(traces, study.tuning, live, replay)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next configuration."""
        self._config = read_config(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the configuration."""
        return {**asdict(self._evaluator.evaluate(self._config)), "done": True}


class FromProposals(Searcher):  # type: ignore[misc]  # Ray is not typed
    """What Tune asks for configurations: `Proposals`, past those trials that an earlier part of the run has finished.

    Parameters
    ----------
    proposals : Proposals
    finished : mapping of int to Trial
        Trials that need not run again: their results are told to the sampler as if they had just come.
    done : callable
        Called with number, configuration and result of each trial as it finishes.
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
        self.failed: str | None = None
        self.died: str | None = None
        self.full: OSError | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next configuration; None for "not yet"."""
        while self.failed is None and self.died is None and self.full is None:
            number = self._proposals.asked
            config = self._proposals.ask()
            if config is None:
                return None
            before = self._finished.get(number)
            if before is None:
                self._running[trial_id] = number, config
                return config.to_dict()
            if before.config != config:
                self.failed = (
                    f"trial {number} of the journal is {before.config}, but {config} is proposed now: "
                    "the run was begun with another version of Optuna, and its search cannot be gone on with"
                )
                break
            self._proposals.tell(number, before.result)
        return Searcher.FINISHED  # type: ignore[no-any-return]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take a trial's result."""
        number, config = self._running.pop(trial_id)
        if error or result is None:
            self.died = f"trial {number} failed: {config}"
            return
        found = TrialResult(**{key: result[key] for key in TrialResult.__dataclass_fields__})
        self._proposals.tell(number, found)
        try:
            self._done(number, config, found)
        except OSError as full:  # a full disk: Tune would make a trial's failure of it
            self.full = full

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its whole configuration for a `Tuner.restore` that is never called; what it must not meet
        # is the progress bar's lock and the open journal behind `done`.
        return {}


def _model_of_actor(actor: Any) -> Ask:
    # An actor without a GPU of its own sees all of them: hide them, an attacker may train a network here.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def ask(images: Images, gradient_of: Labels) -> tuple[Images, Images]:
        answer: tuple[Images, Images] = ray.get(actor.predict.remote(images, gradient_of))
        return answer

    return ask


def search(
    traces: TraceSet, study: Study, journal: Journal, address: str | None = None, model: ModelFile | None = None
) -> list[Trial]:
    """Try the study's number of configurations, without those that the journal holds already.

    Parameters
    ----------
    traces : TraceSet
        The search split.
    study : Study
    journal : Journal
        Each trial is written into it as soon as it is finished, and it is turned into a table at the end.
    address : str or None
        Of a Ray cluster; None starts a local one.
    model : ModelFile, optional
        The victim: needed where something runs live in every trial (see `tuning.live.runs_live`).

    Returns
    -------
    list of Trial
        In the order in which they were proposed.

    Raises
    ------
    RunError
        Where a trial fails, or what the journal holds does not belong to this search.
    """
    tuning = study.tuning
    before = {trial.number: trial for trial in journal.read() if trial.number < tuning.trials}
    if len(before) < tuning.trials:
        with journal:
            _run(traces, study, journal, before, address, model)
    trials = journal.read()[: tuning.trials]
    journal.finish(trials)
    return trials


def _run(
    traces: TraceSet,
    study: Study,
    journal: Journal,
    before: Mapping[int, Trial],
    address: str | None,
    model: ModelFile | None,
) -> None:
    tuning = study.tuning
    limit = min(tuning.limit(users.name) for users in study.users)
    best = min(
        (t.result.queries for t in before.values() if t.result.false_positive_rate <= limit), default=float("inf")
    )
    elapsed = max((trial.elapsed_seconds for trial in before.values()), default=0.0)
    count = len(before)
    started_here = connect(address)
    try:
        models = Models([], [])
        with autoscaled(study.server):
            # Refuse what Tune would wait for without a word.
            placed = model_beside_trials(study.server, nodes())
            if model is not None:
                models = start_models(study, model, placed)
                wait_for_place(models.up(), placed.model_cpus)
                models = drop_divergent_replicas(models, study)
            wait_for_cpu()
        at = list(zip(models.names, models.node_ids(), strict=True))
        with Bar("searching", tuning.trials, "trials", tuning.trials - count) as bar:
            started = time.monotonic()

            def done(number: int, config: DetectorConfig, found: TrialResult) -> None:
                nonlocal best, count
                count += 1
                journal.append(Trial(number, config, found, elapsed + time.monotonic() - started))
                if found.false_positive_rate <= limit:
                    best = min(best, found.queries)
                note = f"best so far blocks after {best:.1f} queries" if best < float("inf") else "none below the limit"
                bar.update(count, note, count - len(before))

            finished = before
            for left in reversed(range(ATTEMPTS)):
                searcher = FromProposals(Proposals(tuning, study.seed, longest_budget(study)), finished, done)
                with translate_errors():
                    _fit(traces, study, at, searcher, tuning.trials - len(finished), capacity(nodes(), 1.0))
                if searcher.full is not None:
                    raise searcher.full
                if searcher.failed is not None:
                    raise RunError(searcher.failed)
                if searcher.died is None:
                    break
                if not left:
                    raise RunError(searcher.died)
                finished = {trial.number: trial for trial in journal.read() if trial.number < tuning.trials}
    finally:
        if started_here:
            ray.shutdown()


def _fit(
    traces: TraceSet,
    study: Study,
    models: Sequence[tuple[str, str]],
    searcher: FromProposals,
    trials: int,
    at_a_time: int,
) -> None:
    # For a trial that has no place yet Tune would ask for a placement group, and take that back as soon as another
    # trial's actor is free: now and then (Ray 2.60, several nodes) a CPU is lost that way until its node starts anew,
    # and whatever needs all CPUs waits for ever. So no more are under way than have a place.
    with tempfile.TemporaryDirectory(prefix="mifsim-tune-") as scratch, _environment(_QUIET):
        trainable = tune.with_parameters(ReplayTrial, traces=traces, study=study, models=models)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=trials, reuse_actors=True, max_concurrent_trials=at_a_time
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
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
