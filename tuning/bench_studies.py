"""The studies that a comparison of detectors is made of: one recording, and attackers with each row of evasions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from mifsim.defense import DetectorConfig, NoDefenseConfig
from mifsim.run.estimate import queries_of
from mifsim.study import Filter, Study
from mifsim.study.bench import BenchDetector
from mifsim.study.crossing import Matrix
from tuning.bench_workloads import study_of_unseen
from tuning.live import closed_loop, open_loop

ATTACKERS_PER_HOST = 96
"""Largest number of crossed attackers that a host runs at the same time."""


def with_all_recorders(study: Study) -> Study:
    """Return the study with configurations of each detector as filters, so that a recording serves all searches."""
    found = list(study.filters)
    for detector in study.bench.detectors:
        for number, corner in enumerate(study.tuning_of(detector).search_space.corners()):
            if corner.replayable():
                found.append(Filter(name=f"{detector.name}.{number}", config=corner))
    return with_filters(study, found)


def crossed_studies(study: Study) -> Iterator[tuple[bool, Study]]:
    """Yield the crossed studies: with the rows of [matrix], then with those of attackers who know the detector."""
    for knows, rows in ((False, study.matrix.evasions), (True, study.bench.knowing)):
        if rows:
            plain = study.to_toml()
            plain.pop("bench", None)
            plain["matrix"] = Matrix(evasions=rows).to_toml()
            for attack in plain["attacks"]:
                attack["trials"] = study.bench.trials
            # Other attackers than those of the search.
            plain["seed"] = study.seed + 1
            # These are few and take long: small shards lose less if the run is interrupted, and occupy all hosts.
            plain["server"]["sessions_per_host"] = min(study.server.sessions_per_host, ATTACKERS_PER_HOST)
            yield knows, Study.parse(plain, study.name).crossed()


def calibration_study(study: Study, detector: BenchDetector) -> Study:
    """Return the study with which a comparison calibrates one of its detectors."""
    plain = study.to_toml()
    plain.pop("bench", None)
    plain["name"] = f"{study.name} {detector.name}"[:60]
    plain["filters"] = []
    # The page of a comparison shows neither reference fronts nor the leakage of the calibrations' attackers.
    shown = {"reference": False, "confirm_leakage": False}
    plain["tuning"] = {**study.tuning_of(detector).model_dump(exclude_none=True), **shown}
    return Study.parse(plain, detector.name)


def closed_loop_studies(study: Study, configs: Mapping[str, DetectorConfig]) -> Iterator[tuple[bool, Study]]:
    """Yield the studies of the closed-loop attackers: of [matrix], then of attackers who know the detector.

    They run against each detector in each scope, and without one.

    Parameters
    ----------
    study : Study
    configs : mapping of str to DetectorConfig
        The compared configurations by name.
    """
    filters = [
        Filter(name=f"{name}.{scope}", config=replace(config, scope=scope))
        for name, config in configs.items()
        if not isinstance(config, NoDefenseConfig)
        for scope in study.bench.scopes
    ]
    filters.append(Filter(name="no filter", config=NoDefenseConfig()))
    for knows, crossed in crossed_studies(study):
        attackers = closed_loop(crossed)
        if attackers.attacks:
            plain = attackers.to_toml()
            plain["filters"], plain["users"] = [item.to_toml() for item in filters], []
            plain["leakage"] = crossed.to_toml()["leakage"]  # `closed_loop` switches it off
            yield knows, Study.parse(plain, crossed.name)


def with_filters(study: Study, filters: list[Filter]) -> Study:
    """Return the study with other filters and a search that records nothing."""
    plain = study.to_toml()
    plain.pop("bench", None)
    plain["filters"] = [item.to_toml() for item in filters]
    # A quota needs no recorder: the filters name all that is needed.
    kept = ("splits", "separate_images", "false_positive_limit")
    plain["tuning"] = {"kind": "quota", **{key: plain["tuning"][key] for key in kept}}
    if not study.users:
        del plain["tuning"]["false_positive_limit"]
    return Study.parse(plain, study.name)


def queries_of_comparison(study: Study, classes: int) -> int:
    """Return the expected number of queries of a comparison.

    Each client of the study and each crossed attacker counts once, closed-loop attackers once for each detector and
    scope and once without a detector. An attacker counts with its budget.

    Parameters
    ----------
    study : Study
    classes : int
        Number of classes of the data.
    """
    compared = len(study.bench.detectors) + sum(not isinstance(item.config, NoDefenseConfig) for item in study.filters)
    live_runs = compared * len(study.bench.scopes) + 1
    total = queries_of(open_loop(study), classes, 1)
    if (unseen := study_of_unseen(study)) is not None:
        total += queries_of(unseen, classes, 1)
    for _, crossed in crossed_studies(study):
        attackers = crossed.model_copy(update={"users": []})
        of_open_loop = queries_of(open_loop(attackers), classes, 1)
        total += of_open_loop + (queries_of(attackers, classes, 1) - of_open_loop) * live_runs
    return total
