"""Deterministic proposals of configurations by Optuna's samplers.

With concurrent trials, the results that a sampler has seen usually depend on which trials finished first. Here they do
not: trial t is proposed from exactly the results of the trials 0 to t - `concurrent`, in the order of their numbers. So
the study and its seed determine every proposal, on one core or on a cluster, and a resumed search repeats its
proposals.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mifsim.defense import DetectorConfig
from mifsim.defense.recording import HonestSessions
from mifsim.pareto import hypervolume, non_dominated
from mifsim.study import Tuning
from tuning.space import distributions
from tuning.tracedata import Floats
from tuning.trials import TrialResult
from tuning.variations import variation

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

POPULATION = 24
"""Population size of NSGA-II: about twelve generations in the default 300 trials."""
STARTUP_TRIALS = 24
"""Number of random trials before TPE starts to learn."""
RANDOM_INTERVAL = 4
"""One trial in `RANDOM_INTERVAL` is random throughout the search, so that a sampler can leave a local optimum."""

VARIATIONS = 20
"""Number of variations of which one has to be new; otherwise the sampler proposes the trial."""


class Proposals:
    """A multi-objective search with Optuna's ask-and-tell interface.

    The objectives, all minimised, are the false-positive rate of the worst workload, the logarithm of the queries to
    block and, if the study sets ``tuning.leakage``, the leakage at block. A false-positive rate above the study's
    budget violates a constraint. Both samplers prefer configurations that satisfy it, and among the others those that
    violate it less.

    A sampler proposes one configuration a trial. For a kind with swept parameters (`DetectorConfig.swept`), a trial
    also returns surrogate estimates for all values of these parameters. After the random trials at the start, every
    second trial is a warm-start candidate: the parameters of an earlier trial with the swept values whose estimate adds
    most to the hypervolume. The sampler learns from these trials, too. Without them it often stays in the first good
    region (such as long buffers) although another one (such as short buffers) is better.

    For the other kinds, every second trial is a random variation of one of the best trials so far; see
    `tuning.variations`. With the 16 parameters of `evidence`, the sampler alone finds less than random trials do
    (``python -m tests.benchmarks.dense_search``).

    Parameters
    ----------
    tuning : Tuning
        The section ``[tuning]`` of the study.
    seed : int
        The study's seed.
    budget : float
        The largest query budget of an attack: the scale of queries in the hypervolume.
    honest : HonestSessions, optional
        The honest sessions of the search split; required if the search space derives its configurations from them.

    Attributes
    ----------
    asked : int
        Number of trials proposed so far, which is the number of the next trial.
    """

    def __init__(self, tuning: Tuning, seed: int, budget: float, honest: HonestSessions | None = None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._tuning = tuning
        self._space = tuning.search_space
        self._honest = honest
        self._distributions = distributions(self._space)
        self._results: dict[int, TrialResult] = {}
        self._told = 0  # number of results that the sampler has received
        self.asked = 0
        self._seed = seed
        sampler_seed = seed % 2**32  # the samplers use numpy's legacy generator, which accepts no larger seed
        self._sampler = _sampler(tuning, sampler_seed)
        self._random = optuna.samplers.RandomSampler(seed=(sampler_seed + 1) % 2**32)
        directions = ["minimize"] * (3 if tuning.leakage else 2)
        self._study = optuna.create_study(directions=directions, sampler=self._sampler)
        self._trials: list[optuna.trial.Trial] = []
        self._budget = budget
        self._proposed: set[DetectorConfig] = set()
        self._points: list[tuple[float, ...]] = []
        # The non-dominated warm-start candidates: estimated objectives, and the parameters to try.
        self._candidates: list[tuple[tuple[float, ...], dict[str, Any]]] = []

    def ask(self) -> DetectorConfig | None:
        """Return the next trial's configuration, or None while a result that it depends on is missing."""
        while self._told <= self.asked - self._tuning.concurrent:
            if self._told not in self._results:
                return None
            self._tell(self._results.pop(self._told))
        if self.asked >= STARTUP_TRIALS and self.asked % 2 and (params := self._next_to_best()) is not None:
            self._study.enqueue_trial(params)
        is_random = self.asked % RANDOM_INTERVAL == RANDOM_INTERVAL // 2
        self._study.sampler = self._random if is_random else self._sampler
        trial = self._study.ask(self._distributions)
        self._trials.append(trial)
        self.asked += 1
        proposed = self._space.config(trial.params, self._honest)
        self._proposed.add(proposed)
        return proposed

    def tell(self, number: int, result: TrialResult) -> None:
        """Take the result of a trial; trials may finish in any order.

        Parameters
        ----------
        number : int
            The trial's number: the value of `asked` before its configuration was proposed.
        result : TrialResult
            Its result.
        """
        self._results[number] = result

    def _tell(self, result: TrialResult) -> None:
        trial = self._trials[self._told]
        trial.set_constraint("budget", result.false_positive_rate - self._tuning.false_positive_budget)
        values = [result.false_positive_rate, math.log(result.queries)]
        if result.leak is not None:
            values.append(result.leak)
        self._study.tell(trial, values)
        self._told += 1
        leak = () if result.leak is None else (result.leak,)
        self._points.append((result.false_positive_rate, result.queries, *leak))
        swept = self._space.config_class.swept
        names = {name: self._space.config_class.params[name].search_name or name for name in swept}
        for estimate in result.estimates:
            chosen = {names[name]: int(value) for name, value in zip(swept, estimate, strict=False)}
            self._candidates.append((estimate[len(swept) :], {**trial.params, **chosen}))
        kept = non_dominated(np.array([estimate for estimate, _ in self._candidates]))
        self._candidates = [candidate for candidate, keep in zip(self._candidates, kept, strict=True) if keep]

    def _next_to_best(self) -> dict[str, Any] | None:
        """Return parameters that follow from the best trials so far; None if there are no new ones."""
        if self._space.config_class.swept:
            return self._best_candidate()
        limits, trials = self._tuning.false_positive_limit, [trial.params for trial in self._trials[: self._told]]
        limit = min(limits.values()) if isinstance(limits, dict) else limits
        points, budget = np.array(self._points), self._tuning.false_positive_budget
        rng = np.random.default_rng([self._seed, self.asked])
        for _ in range(VARIATIONS):
            params = variation(trials, points, self._distributions, limit, budget, rng)
            if self._space.config(params, self._honest) not in self._proposed:
                return params
        return None

    def _best_candidate(self) -> dict[str, Any] | None:
        """Return the candidate whose estimate adds most to the hypervolume; None if no candidate adds to it."""
        found = np.array(self._points)
        front = found[non_dominated(found)]
        best, most = None, self._volume(front)
        for estimate, params in self._candidates:
            if self._space.config(params, self._honest) in self._proposed:
                continue
            volume = self._volume(np.vstack([front, estimate]))
            if volume > most:
                best, most = params, volume
        return best

    def _volume(self, points: Floats) -> float:
        return hypervolume(points, budget=self._budget, fpr_limit=self._tuning.false_positive_budget)


def _sampler(tuning: Tuning, seed: int) -> BaseSampler:
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import NSGAIISampler, TPESampler

    if tuning.sampler == "nsga2":
        return NSGAIISampler(population_size=POPULATION, seed=seed)
    with warnings.catch_warnings():  # Optuna marks the multivariate TPE as experimental
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(multivariate=True, n_startup_trials=STARTUP_TRIALS, seed=seed)
