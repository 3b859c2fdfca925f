"""Checks whether a study can be calibrated, before anything is run."""

from __future__ import annotations

from mifsim.data import load_data
from mifsim.errors import StudyError
from mifsim.run.inputs import check_labels
from mifsim.run.pools import check_pools
from mifsim.study import Study
from tuning.bench_workloads import study_of_unseen
from tuning.splits import calibration_images, check_reach, check_split_sizes

CALIBRATED = "calibrated"
"""Name of the chosen configuration in all tables."""


def check_calibration(study: Study) -> None:
    """Raise an error if a study cannot be calibrated.

    Raises
    ------
    StudyError
        If the study lacks attacks or users, uses the reserved filter name, has too few sessions for its limits (see
        `tuning.splits.check_reach`) or a split without clients of one of its populations, has closed-loop users, leaves
        out its only workload, or minimises the leakage without measuring it or with closed-loop attackers.
    """
    for key, present in (("attacks", study.attacks), ("users", study.users)):
        if not present:
            raise StudyError(
                f"{study.name}: {key}: missing; add at least one [[{key}]] table "
                "(a calibration needs both attacks and honest users)"
            )
    for key, named in (("filters", study.filters), ("tuning.compare", study.tuning.compare)):
        if any(item.name == CALIBRATED for item in named):
            raise StudyError(
                f"{study.name}: {key}: the name {CALIBRATED!r} is reserved for the chosen configuration; "
                "rename the filter"
            )
    names = [*(item.name for item in study.tuning.compare), *(item.name for item in study.filters)]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise StudyError(
            f"{study.name}: tuning.compare and filters must have different names; used more than once: "
            f"{', '.join(duplicates)}"
        )
    if study.tuning.leakage and not study.leakage.enabled:
        raise StudyError(f"{study.name}: tuning.leakage = true: requires leakage.enabled = true")
    if study.tuning.leave_out and len(study.users) < 2:
        raise StudyError(
            f"{study.name}: tuning.leave_out = true: needs at least two workloads, but {study.users[0].name!r} is the "
            "only one (accepted: false, or further [[users]] tables)"
        )
    check_reach(study)
    check_split_sizes(study)
    for users in study.users:
        if users.closed_loop:
            raise StudyError(
                f"{study.name}: users {users.name!r}: closed-loop (they react to refusals), so replay cannot count "
                "their false positives; remove them, or use mifsim simulate"
            )
    if study.tuning.leakage and (names := [attack.name for attack in study.attacks if attack.closed_loop]):
        raise StudyError(
            f"{study.name}: tuning.leakage = true: not available with closed-loop attackers ({', '.join(names)}): they "
            "run live in every trial, and their leakage is not scored there; accepted: false, or a study without them"
        )


def check_images(study: Study) -> None:
    """Raise an error if the data have too few images for the splits of a calibration; no model is loaded or trained.

    Raises
    ------
    DataError
        If the data or a log are not valid.
    StudyError
        If a class has fewer images than there are splits, or sessions can need more images than a split has.
    """
    data = load_data(study.data, again=True)
    check_labels(study, data)
    calibration_images(study, data)
    for users in (study, study_of_unseen(study)):
        if users is not None:
            check_pools(users, data, study.tuning.separate_images)
