"""A study small enough to calibrate in a test, a backend whose model is a formula, and a search without Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mifsim.clients.protocol import ClientGenerator, Query, Refusal, User, World
from mifsim.data import load_data
from mifsim.defense import InvalidImage
from mifsim.run.folder import RunFolder
from mifsim.run.sessions import run_sessions
from mifsim.server.backend import Job, OnProgress
from mifsim.server.client_specs import Shard
from mifsim.server.environment import Environment
from mifsim.server.shard_run import Reply, run_shard
from mifsim.study import Study
from mifsim.testing.worlds import SoftmaxLinear
from mifsim.victims import ModelSource, Victim, VictimConfig
from tests.small import small_study
from tuning.confirm import compare, predicted
from tuning.leave_out import LeftOut, calibrate_without
from tuning.live import LiveAttackers, LiveReplay, longest_budget
from tuning.objectives import NO_LIVE
from tuning.proposals import Proposals
from tuning.replay import Replay, honest_sessions, replay
from tuning.tracedata import TraceSet
from tuning.trials import Journal, Trial, TrialEvaluator


def tiny_study(**changes: Any) -> Study:
    """Return the tiny study; each keyword argument replaces a section.

    It has three attackers for each of two classes and 24 users, so every split gets some of each.
    """
    table: dict[str, Any] = {
        "leakage": {"enabled": False},
        "tuning": {
            "trials": 12, "space": {"n_b": {"max": 10}, "ssim": ["global", "uniform"]},
            "grid": {"t_ssim": 6, "t_hash": 6},
        },
        "attacks": [
            {
                "attack": "mi-face", "noise": 0.01, "labels": [0, 3], "trials": 3, "budget_queries": 25, "beta": 0,
                "gamma": 0.0,
            },
        ],
        "users": [
            {"user": "independent", "sessions": 12, "length": {"min": 3, "max": 9}},
            {"user": "retries", "sessions": 12, "length": 8, "probability": 0.3},
        ],
    }  # fmt: skip
    return small_study(**{**table, **changes})


class Prober(User):
    """A closed-loop user that sends one query."""

    closed_loop: ClassVar[bool] = True

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        yield Query(world.pool.image(0))
        return None


class InvalidImageUser(User):
    """A user that sends the same image up to eight times, each time after an invalid image, and stops when refused."""

    def run(self, world: World, rng: np.random.Generator) -> ClientGenerator:
        for _ in range(8):
            with contextlib.suppress(InvalidImage):
                yield Query(np.full(world.shape, np.nan, np.float32))
            if isinstance((yield Query(world.pool.image(0))), Refusal):
                break
        return None


class FormulaBackend:
    """A backend that runs shards in this process on a linear softmax model.

    Attributes
    ----------
    shards : list of int
        Numbers of the finished shards. After `stop_after` of them the backend raises `KeyboardInterrupt`.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.shards: list[int] = []
        self._stop_after = stop_after

    def run(self, job: Job, model: ModelSource, shards: Iterator[Shard], on_progress: OnProgress) -> None:
        environment = Environment.load(job.study, job.run, job.facts, job.recording, job.separate_images)
        victim = SoftmaxLinear(environment.data.shape, len(environment.data.class_names))
        for shard in shards:
            if len(self.shards) == self._stop_after:
                raise KeyboardInterrupt
            steps = run_shard(shard, environment)
            try:
                batch = next(steps)
                while True:
                    requests = zip(batch.images, batch.gradient_of, strict=True)
                    gradients = [victim.gradient(image, label) for image, label in requests if label >= 0]
                    confidence = [victim.confidence(image) for image in batch.images]
                    batch = steps.send(Reply(np.float32(confidence), np.float32(gradients)))
            except StopIteration:
                self.shards.append(shard.number)
            on_progress(environment.counters)


def formula_victim(folder: Path, fingerprint: str = "formula") -> Victim:
    """Return a victim whose model file is a placeholder, because the backend uses a formula."""
    file = folder / "victim.keras"
    file.write_bytes(b"none: the backend has a formula")
    facts = {"fingerprint": fingerprint, "test_accuracy": 0.2, "accept_any_accuracy": True}
    return Victim(file, VictimConfig(), 0.2, fingerprint, False, facts)


def digits(study: Study) -> Any:
    """Load the data set of a study."""
    return load_data(study.data)


def formula_model(study: Study, data: Any, victim: Victim | None) -> Any:
    """Return the prediction function of the same formula; replaces `tuning.live.model_here`."""
    model = SoftmaxLinear(data.shape, len(data.class_names))

    def predict(images: Any, gradient_of: Any) -> tuple[Any, Any]:
        gradients = [
            model.gradient(image, label) for image, label in zip(images, gradient_of, strict=True) if label >= 0
        ]
        return np.float32([model.confidence(image) for image in images]), np.float32(gradients)

    return predict


def assert_live_matches_replay(study: Study, traces: TraceSet, folder: Path) -> dict[str, int | None]:
    """Run a study's filters live; fail if a session does not end as the replay predicts; return the predictions."""
    expected = predicted(traces, study.filters)
    run = RunFolder.create(folder, study)
    job = Job(study, run.path, run.metadata(study), separate_images=study.tuning.separate_images)
    run_sessions("live", run, job, formula_victim(folder.parent), FormulaBackend(), 10)
    assert compare(run.path, expected) == len(expected)
    return expected


def serial_search(
    traces: TraceSet, study: Study, journal: Journal, address: str | None = None, model: ModelSource | None = None
) -> list[Trial]:
    """Search without Ray, one trial after another; replaces `tuning.search.search`."""
    proposals = Proposals(study.tuning, study.seed, longest_budget(study), honest_sessions(traces, study.tuning))
    evaluator = TrialEvaluator(traces, study.tuning)
    if model is not None:
        live, replay = live_clients(study)
        evaluator = TrialEvaluator(
            traces, study.tuning, lambda config: NO_LIVE if live is None else live.queries([config])[0], replay
        )
    trials: list[Trial] = []
    finished = {trial.number: trial for trial in journal.read()}
    with journal:
        for number in range(study.tuning.trials):
            config = proposals.ask()
            assert config is not None
            trials.append(finished.get(number) or Trial(number, config, evaluator.evaluate(config), 0.0))
            proposals.tell(number, trials[-1].result)
            if number not in finished:
                journal.append(trials[-1])
    journal.finish(trials)
    return trials


def serial_calibrations(
    traces: TraceSet,
    study: Study,
    wanted: Mapping[str, Sequence[Trial]],
    address: str | None = None,
    model: ModelSource | None = None,
) -> Iterator[tuple[str, Trial | LeftOut]]:
    """Leave out workloads without Ray, one after another; replaces `tuning.leave_out_actors.calibrate_all`."""
    live, run = (None, replay) if model is None else live_clients(study)
    for workload, finished in wanted.items():
        for event in calibrate_without(traces, study, workload, finished, live, run):
            yield workload, event


def live_clients(study: Study) -> tuple[LiveAttackers | None, Replay]:
    """Return the closed-loop attackers of a study, if it has any, and its replay; the model is a formula."""
    data = digits(study)
    predict = formula_model(study, data, None)
    live = LiveAttackers(study, predict, data) if any(attack.closed_loop for attack in study.attacks) else None
    return live, LiveReplay(study, predict, data)
