"""The Ray Tune trainable that evaluates one configuration a trial."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray import tune

from mifsim.defense.kinds import read_config
from mifsim.server.ray.models import nearest_copy
from mifsim.study import Study
from tuning.live import Images, Labels, LiveAttackers, LiveReplay, PredictFunction
from tuning.objectives import NO_LIVE
from tuning.tracedata import TraceSet
from tuning.trials import TrialEvaluator


class ReplayTrial(tune.Trainable):  # type: ignore[misc]  # Ray is not typed
    """A trial that evaluates one configuration.

    Tune reuses the actor for later trials, so the traces are mapped and prepared only once.
    """

    def setup(self, config: dict[str, Any], traces: TraceSet, study: Study, models: Sequence[tuple[str, str]]) -> None:
        """Set up the evaluator and take the first configuration.

        Parameters
        ----------
        config : dict
            The configuration; see `DetectorConfig.to_dict`.
        traces : TraceSet
            The search split, shared from the object store without a copy.
        study : Study
            The study.
        models : sequence of (str, str)
            Name and node id of each replica of the model. The clients that run live in this process (closed-loop
            attackers, and all clients of a kind without a replay) query one replica, on this node if possible. Empty:
            no client runs live.
        """
        if not models:
            self._evaluator = TrialEvaluator(traces, study.tuning)
        else:
            predict = _predict_function(nearest_copy(*zip(*models, strict=True)))
            replay = LiveReplay(study, predict)
            if any(attack.closed_loop for attack in study.attacks):
                attackers = LiveAttackers(study, predict)
                live = lambda config: attackers.queries([config])[0]  # noqa: E731
            else:
                live = lambda config: NO_LIVE  # noqa: E731
            self._evaluator = TrialEvaluator(traces, study.tuning, live, replay)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next configuration; return True, as Tune requires of a reusable actor."""
        self._config = read_config(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the configuration; return the fields of a `TrialResult`."""
        return {**asdict(self._evaluator.evaluate(self._config)), "done": True}


def _predict_function(actor: Any) -> PredictFunction:
    # Ray shows all GPUs to an actor without one. Hide them: an attacker may train a network in this process.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def predict(images: Images, gradient_of: Labels) -> tuple[Images, Images]:
        answer: tuple[Images, Images] = ray.get(actor.predict.remote(images, gradient_of))
        return answer

    return predict
