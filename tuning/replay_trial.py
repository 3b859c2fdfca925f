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
from tuning.replay import Replay, replay
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
        attackers, run = live_clients(study, models)
        live = (lambda config: NO_LIVE) if attackers is None else (lambda config: attackers.queries([config])[0])
        self._evaluator = TrialEvaluator(traces, study.tuning, live, run)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next configuration; return True, as Tune requires of a reusable actor."""
        self._config = read_config(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the configuration; return the fields of a `TrialResult`."""
        return {**asdict(self._evaluator.evaluate(self._config)), "done": True}


def live_clients(study: Study, models: Sequence[tuple[str, str]]) -> tuple[LiveAttackers | None, Replay]:
    """Return the closed-loop attackers and the replay of a process that evaluates configurations.

    Parameters
    ----------
    study : Study
    models : sequence of (str, str)
        See `ReplayTrial.setup`.
    """
    if not models:
        return None, replay
    predict = _predict_function(nearest_copy(*zip(*models, strict=True)))
    attackers = LiveAttackers(study, predict) if any(attack.closed_loop for attack in study.attacks) else None
    return attackers, LiveReplay(study, predict)


def _predict_function(actor: Any) -> PredictFunction:
    # Ray shows all GPUs to an actor without one. Hide them: an attacker may train a network in this process.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def predict(images: Images, gradient_of: Labels) -> tuple[Images, Images]:
        answer: tuple[Images, Images] = ray.get(actor.predict.remote(images, gradient_of))
        return answer

    return predict
