"""Compares the search of a calibration with a dense random search: ``python -m tests.benchmarks.dense_search RUN``.

RUN is the folder of a finished calibration whose recording is in the cache. Configurations are drawn independently from
the search space and replayed on the search split. The result is the hypervolume of the calibration's trials as a share
of that of all configurations, its trials and the drawn ones. Kinds with an exhaustive search report a similar share
themselves; those with many parameters have none.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mifsim.pareto import hypervolume
from mifsim.progress import Bar
from mifsim.run.inputs import load_inputs
from mifsim.run.sessions import make_backend
from mifsim.study import Study
from tuning.live import longest_budget, open_loop
from tuning.objectives import NO_LIVE
from tuning.replay import honest_sessions
from tuning.space import distributions
from tuning.trace_loading import load
from tuning.traces import record
from tuning.trials import Journal, TrialEvaluator

BATCH = 50
"""Configurations that a process evaluates at a time."""
STAGE = 10_000
"""A result is printed each time that so many more configurations were evaluated."""
_shared: Any = None


def search_of(run: Path) -> tuple[Study, TrialEvaluator, Any]:
    """Return a calibration's study, the evaluation of its configurations, and its honest sessions."""
    study, data, victim = load_inputs(Study.load(run / "study.toml"))
    replayed = open_loop(study)
    recording = record(replayed, data, victim, make_backend("in-process"))
    search = load(recording.path, replayed).of_split("search")
    return study, TrialEvaluator(search, study.tuning, lambda config: NO_LIVE), honest_sessions(search, study.tuning)


def drawn(study: Study, rng: np.random.Generator) -> dict[str, Any]:
    """Return a point of the search space, drawn as the search's random proposals are."""
    point: dict[str, Any] = {}
    for name, one in distributions(study.tuning.search_space).items():
        if hasattr(one, "choices"):
            point[name] = one.choices[rng.integers(len(one.choices))]
            continue
        low, high = (np.log(one.low), np.log(one.high)) if one.log else (one.low, one.high)
        value = rng.uniform(low, high)
        value = float(np.exp(value)) if one.log else float(value)
        whole = "Int" in type(one).__name__
        point[name] = round(value) if whole else min(max(value, one.low), one.high)
    return point


def evaluated(seed: int) -> npt.NDArray[np.float64]:
    """Return false-positive rate and queries of some drawn configurations, shape (n, 2)."""
    study, evaluator, honest = _shared
    rng, space = np.random.default_rng([7, seed]), study.tuning.search_space
    results = [evaluator.evaluate(space.config(drawn(study, rng), honest)) for _ in range(BATCH)]
    return np.array([(one.false_positive_rate, one.queries) for one in results])


def prepare(run: Path) -> None:
    """Load the recording in a process of the pool."""
    global _shared
    _shared = search_of(run)


def batches(run: Path, draws: int, processes: int) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the results of `draws` configurations."""
    context = multiprocessing.get_context("spawn")  # a fork copies locks that other threads hold
    with context.Pool(processes, prepare, (run,)) as pool, Bar("random search", draws, "configurations") as bar:
        for number, found in enumerate(pool.imap_unordered(evaluated, range(draws // BATCH))):
            bar.update((number + 1) * BATCH)
            yield found


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished calibration")
    parser.add_argument("--draws", type=int, default=100_000, help="drawn configurations (default: 100000)")
    parser.add_argument("--processes", type=int, default=2, help="processes (default: 2)")
    options = parser.parse_args()
    started = time.monotonic()
    study = search_of(options.run)[0]
    tuning, budget = study.tuning, longest_budget(study)
    trials = Journal(options.run, {}, tuning.search_space).read()
    proposed = np.array([(trial.result.false_positive_rate, trial.result.queries) for trial in trials])
    limit = min(tuning.limit(users.name) for users in study.users)

    def volume(points: npt.NDArray[np.float64]) -> float:
        return hypervolume(points, budget=budget, fpr_limit=tuning.false_positive_budget)

    def compare(random: npt.NDArray[np.float64]) -> None:
        every = volume(np.concatenate([proposed, random]))
        best = [points[points[:, 0] <= limit, 1].min(initial=np.inf) for points in (proposed, random)]
        print(
            f"{len(proposed)} trials reach {volume(proposed) / every:.2%} of the hypervolume of these and "
            f"{len(random):,} random configurations, which alone reach {volume(random) / every:.2%}. Fewest mean "
            f"queries at a false-positive rate of at most {limit:g} on the search split: {best[0]:.1f} by the trials, "
            f"{best[1]:.1f} by the random ones ({time.monotonic() - started:.0f} s).",
            flush=True,
        )

    found: list[npt.NDArray[np.float64]] = []
    for one in batches(options.run, options.draws, options.processes):
        found.append(one)
        if len(found) % (STAGE // BATCH) == 0 or len(found) == options.draws // BATCH:
            compare(np.concatenate(found))


if __name__ == "__main__":
    main()
