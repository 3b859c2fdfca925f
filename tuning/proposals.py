"""Which setting to try next: Optuna's samplers, fed so that the answer depends on the results alone.

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

from mifsim.defense import FilterConfig
from mifsim.pareto import hypervolume, non_dominated
from mifsim.study import Tuning
from tuning.space import config, distributions
from tuning.tracedata import Floats
from tuning.trials import Scored

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
    violated constraint: both samplers then prefer any setting within the budget, and of two outside the nearer.

    A sampler sees one setting a trial, but a replay of one pair of thresholds shows all buffer sizes and limits.
    So every other trial, once the sampler has begun to learn, follows the best of the trials' hints: it replays,
    with thresholds that were tried, the buffer size and limit that promise the greatest gain in hypervolume. The
    sampler learns from these trials as from its own. Without them it often stays with the first kind of setting that
    does well (a long buffer, say) where another (a short one) does better.

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
        self._space = distributions(tuning)
        self._results: dict[int, Scored] = {}
        self._told = 0
        self.asked = 0
        small = seed % 2**32  # numpy's legacy generator, which the samplers use, takes no larger seed
        self._sampler = _sampler(tuning, small)
        self._random = optuna.samplers.RandomSampler(seed=(small + 1) % 2**32)
        directions = ["minimize"] * (3 if tuning.leakage else 2)
        self._study = optuna.create_study(directions=directions, sampler=self._sampler)
        self._trials: list[optuna.trial.Trial] = []
        self._budget = budget
        self._proposed: set[FilterConfig] = set()
        self._points: list[tuple[float, ...]] = []
        # What hints promise, none beaten by another: objectives, and the parameters to try.
        self._candidates: list[tuple[tuple[float, ...], dict[str, Any]]] = []

    def ask(self) -> FilterConfig | None:
        """Propose the next trial's setting; None as long as a result that it depends on is missing."""
        while self._told <= self.asked - self._tuning.concurrent:
            if self._told not in self._results:
                return None
            self._tell(self._results.pop(self._told))
        if self.asked >= STARTUP_TRIALS and self.asked % 2 and (params := self._best_candidate()) is not None:
            self._study.enqueue_trial(params)
        elsewhere = self.asked % LOOK_ELSEWHERE == LOOK_ELSEWHERE // 2
        self._study.sampler = self._random if elsewhere else self._sampler
        trial = self._study.ask(self._space)
        self._trials.append(trial)
        self.asked += 1
        proposed = config(trial.params, self._tuning)
        self._proposed.add(proposed)
        return proposed

    def tell(self, number: int, scored: Scored) -> None:
        """Take the result of a trial, in whatever order they come."""
        self._results[number] = scored

    def _tell(self, scored: Scored) -> None:
        trial = self._trials[self._told]
        trial.set_constraint("budget", scored.false_positive_rate - self._tuning.false_positive_budget)
        values = [scored.false_positive_rate, math.log(scored.queries)]
        if scored.leak is not None:
            values.append(scored.leak)
        self._study.tell(trial, values)
        self._told += 1
        leak = () if scored.leak is None else (scored.leak,)
        self._points.append((scored.false_positive_rate, scored.queries, *leak))
        for n_b, l_sp, *objectives in scored.estimates:
            self._candidates.append((tuple(objectives), {**trial.params, "n_b": int(n_b), "l_sp": int(l_sp)}))
        kept = non_dominated(np.array([guarantee_text for guarantee_text, _ in self._candidates]))
        self._candidates = [guarantee_text for guarantee_text, keep in zip(self._candidates, kept, strict=True) if keep]

    def _best_candidate(self) -> dict[str, Any] | None:
        """Return the parameters whose promise adds most to what was found; None where none adds anything."""
        found = np.array(self._points)
        front = found[non_dominated(found)]
        best, most = None, self._volume(front)
        for guarantee_text, params in self._candidates:
            if config(params, self._tuning) in self._proposed:
                continue
            volume = self._volume(np.vstack([front, guarantee_text]))
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
