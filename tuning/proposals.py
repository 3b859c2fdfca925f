"""Which configuration to try next: Optuna's samplers, fed so that the answer depends on the results alone.

With several trials under way at once, what a sampler knows when it is asked usually depends on which of them
happened to be the quickest. Here it does not: trial t is proposed from the results of the trials 0 to
t - `concurrent`, told in their order, no more and no fewer. So a study and its seed determine every proposal, on
one core or on a cluster, and a search that was interrupted proposes again what it proposed before.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mifsim.defense import DetectorConfig
from mifsim.pareto import hypervolume, non_dominated
from mifsim.study import Tuning
from tuning.space import distributions
from tuning.tracedata import Floats
from tuning.trials import TrialResult

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

POPULATION = 24
"""Of NSGA-II: a dozen generations within the usual 300 trials."""
STARTUP_TRIALS = 24
"""Drawn at random before TPE begins to learn."""


LOOK_ELSEWHERE = 4
"""One trial in so many is drawn at random all the time: what a sampler has settled on need not be the best."""


class Proposals:
    """A multi-objective search that is asked and told.

    The objectives, all minimised, are the false-positive rate of the worst workload, the logarithm of the queries to
    block and, where the study wants it, the leakage at block. A false-positive rate above the study's budget is a
    violated constraint: both samplers then prefer any configuration within the budget, and of two outside the nearer.

    A sampler sees one configuration a trial, but for a kind that sweeps (`DetectorConfig.swept`) a replay shows all
    values of the swept parameters. So every other trial, once the sampler has begun to learn, follows the best of these
    surrogate estimates: it replays, with all else as in a trial before, the swept values of which the estimate adds
    most to the hypervolume. The sampler learns from these trials as from its own. Without these warm-start candidates
    it often stays with the first region that does well (a long buffer, say) where another (a short one) does better.

    Parameters
    ----------
    tuning : Tuning
    seed : int
        The study's.
    budget : float
        Of an attack's queries: the scale on which a gain is measured.

    Attributes
    ----------
    asked : int
        Trials proposed so far: the next one's number.
    """

    def __init__(self, tuning: Tuning, seed: int, budget: float) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._tuning = tuning
        self._space = tuning.search_space
        self._distributions = distributions(self._space)
        self._results: dict[int, TrialResult] = {}
        self._told = 0
        self.asked = 0
        small = seed % 2**32  # numpy's legacy generator, which the samplers use, takes no larger seed
        self._sampler = _sampler(tuning, small)
        self._random = optuna.samplers.RandomSampler(seed=(small + 1) % 2**32)
        directions = ["minimize"] * (3 if tuning.leakage else 2)
        self._study = optuna.create_study(directions=directions, sampler=self._sampler)
        self._trials: list[optuna.trial.Trial] = []
        self._budget = budget
        self._proposed: set[DetectorConfig] = set()
        self._points: list[tuple[float, ...]] = []
        # Warm-start candidates, none beaten by another: estimated objectives, and the parameters to try.
        self._candidates: list[tuple[tuple[float, ...], dict[str, Any]]] = []

    def ask(self) -> DetectorConfig | None:
        """Propose the next trial's configuration; None as long as a result that it depends on is missing."""
        while self._told <= self.asked - self._tuning.concurrent:
            if self._told not in self._results:
                return None
            self._tell(self._results.pop(self._told))
        if self.asked >= STARTUP_TRIALS and self.asked % 2 and (params := self._best_candidate()) is not None:
            self._study.enqueue_trial(params)
        elsewhere = self.asked % LOOK_ELSEWHERE == LOOK_ELSEWHERE // 2
        self._study.sampler = self._random if elsewhere else self._sampler
        trial = self._study.ask(self._distributions)
        self._trials.append(trial)
        self.asked += 1
        proposed = self._space.config(trial.params)
        self._proposed.add(proposed)
        return proposed

    def tell(self, number: int, result: TrialResult) -> None:
        """Take the result of a trial, in whatever order they come."""
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

    def _best_candidate(self) -> dict[str, Any] | None:
        """Return the parameters whose estimate adds most to what was found; None where none adds anything."""
        found = np.array(self._points)
        front = found[non_dominated(found)]
        best, most = None, self._volume(front)
        for estimate, params in self._candidates:
            if self._space.config(params) in self._proposed:
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
    with warnings.catch_warnings():  # learning the parameters' joint density counts as experimental
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(multivariate=True, n_startup_trials=STARTUP_TRIALS, seed=seed)
