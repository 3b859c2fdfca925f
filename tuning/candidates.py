"""Candidates of a calibration: the configurations found by its search, and their certification under its study."""

from __future__ import annotations

from collections.abc import Sequence

from mifsim.defense import DetectorConfig
from mifsim.defense.space import SearchSpace
from mifsim.study import Study, Tuning
from tuning.certify import Certificate, certify, conservative
from tuning.replay import Replay, replay
from tuning.tracedata import Floats, TraceSet
from tuning.trials import Trial


def candidates(found: Sequence[Trial], space: SearchSpace) -> list[DetectorConfig]:
    """Return the configurations of a Pareto front and their conservative copies within the search space."""
    return [config for config in conservative([trial.config for trial in found]) if space.contains(config)]


def certify_candidates(
    study: Study,
    search: TraceSet,
    held_out: TraceSet,
    configs: Sequence[DetectorConfig],
    live: Floats | None = None,
    replay: Replay = replay,
) -> Certificate:
    """Test candidates at the limits and the confidence of a study; see `tuning.certify.certify`.

    Parameters
    ----------
    study : Study
        Its workloads are those of the traces.
    search, held_out, configs, live, replay
        See `tuning.certify.certify`.
    """
    tuning = study.tuning
    return certify(
        search,
        held_out,
        configs,
        {users.name: tuning.limit(users.name) for users in study.users},
        delta=1 - tuning.confidence,
        method=tuning.procedure,
        attack=tuning.attack,
        live=live,
        replay=replay,
    )


def no_candidate(tuning: Tuning) -> str:
    """Return the reason why a calibration without candidates certifies no configuration."""
    return f"the search found no configuration with a false-positive rate of at most {tuning.false_positive_budget:.3g}"
