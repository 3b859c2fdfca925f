"""Which setting to try next: Optuna's samplers, fed so that the answer depends on the results alone.

With several trials under way at once, what a sampler knows when it is asked usually depends on which of them
happened to be the quickest. Here it does not: trial t is proposed from the results of the trials 0 to
t - `concurrent`, told in their order, no more and no fewer. So a study and its seed determine every proposal, on
one core or on a cluster, and a search that was interrupted proposes again what it proposed before.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from mifsim.defense import FilterConfig
from mifsim.study import Tuning
from tuning.space import distributions, setting
from tuning.trials import Scored

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

POPULATION = 24
"""Of NSGA-II: a dozen generations within the usual 300 trials."""
STARTUP_TRIALS = 24
"""Drawn at random before TPE begins to learn."""


class Proposals:
    """A multi-objective search that is asked and told.

    The objectives, all minimised, are the false-positive rate of the worst workload, the logarithm of the queries to
    block and, where the study wants it, the leakage at block. A false-positive rate above the study's budget is a
    violated constraint: both samplers then prefer any setting within the budget, and of two outside the nearer.

    Parameters
    ----------
    tuning : Tuning
    seed : int
        The study's.

    Attributes
    ----------
    asked : int
        Trials proposed so far: the next one's number.
    """

    def __init__(self, tuning: Tuning, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._tuning = tuning
        self._space = distributions(tuning)
        self._results: dict[int, Scored] = {}
        self._told = 0
        self.asked = 0
        directions = ["minimize"] * (3 if tuning.leakage else 2)
        self._study = optuna.create_study(directions=directions, sampler=_sampler(tuning, seed))
        self._trials: list[optuna.trial.Trial] = []

    def ask(self) -> FilterConfig | None:
        """Propose the next trial's setting; None as long as a result that it depends on is missing."""
        while self._told <= self.asked - self._tuning.concurrent:
            if self._told not in self._results:
                return None
            self._tell(self._results.pop(self._told))
        trial = self._study.ask(self._space)
        self._trials.append(trial)
        self.asked += 1
        return setting(trial.params, self._tuning)

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


def _sampler(tuning: Tuning, seed: int) -> BaseSampler:
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import NSGAIISampler, TPESampler

    small = seed % 2**32  # numpy's legacy generator, which the samplers use, takes no larger seed
    if tuning.sampler == "nsga2":
        return NSGAIISampler(population_size=POPULATION, seed=small)
    with warnings.catch_warnings():  # learning the parameters' joint density counts as experimental
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(multivariate=True, n_startup_trials=STARTUP_TRIALS, seed=small)
