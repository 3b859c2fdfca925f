"""Checks of a study that involve several of its sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mifsim.clients.protocol import Knowledge
from mifsim.study.gradients import check_gradients

if TYPE_CHECKING:
    from mifsim.study.study import Study


def check_sections(study: Study) -> None:
    """Check that the sections of a study fit together.

    Raises
    ------
    ValueError
        If there is no client, a name is used more than once, limits do not name the workloads, the space of a detector
        to compare is not valid, or a client needs more than the server returns or the victim gives.
    """
    if not study.attacks and not study.users:
        raise ValueError("no clients: add at least one [[attacks]] or [[users]] table")
    _check_names(study)
    for key, detectors in (("bench.detectors", study.bench.detectors), ("tuning.compare", study.tuning.compare)):
        for detector in detectors:
            study.tuning_of(detector, key)  # raises if its space is not valid
    if named := next((detector.name for detector in study.tuning.compare if detector.leave_out is not None), None):
        raise ValueError(
            f"tuning.compare: {named!r}: leave_out: not accepted here (accepted in [tuning] and [[bench.detectors]])"
        )
    gives = study.policy.gives
    for population in (*study.attacks, *study.users):
        needs = type(population.client).needs
        if needs > gives:
            raise ValueError(
                f"{population.name!r} needs {_description(needs)}, but server.response = "
                f"{study.server.response!r} returns {_description(gives)}"
            )
    check_gradients(study.attacks, study.victim, gives)


def _check_names(study: Study) -> None:
    for tables, names in (
        ("filters", [item.name for item in study.filters]),
        ("attacks and users", [item.name for item in (*study.attacks, *study.users)]),
    ):
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"{tables} must have different names; used more than once: {', '.join(sorted(duplicates))}"
            )
    limits, workloads = study.tuning.false_positive_limit, {users.name for users in study.users}
    if isinstance(limits, dict) and set(limits) != workloads:
        raise ValueError(
            f"tuning.false_positive_limit has the keys {', '.join(sorted(limits))} "
            f"(expected: every workload, which are {', '.join(sorted(workloads))})"
        )
    names = [*(item.name for item in study.bench.detectors), *(item.name for item in study.filters)]
    if study.bench.detectors and (duplicates := {name for name in names if names.count(name) > 1}):
        raise ValueError(
            "bench.detectors and filters must have different names; used more than once: "
            f"{', '.join(sorted(duplicates))}"
        )
    unseen = [users.name for users in study.bench.unseen]
    if duplicates := {name for name in unseen if name in workloads or unseen.count(name) > 1}:
        raise ValueError(
            f"bench.unseen and users must have different names; used more than once: {', '.join(sorted(duplicates))}"
        )


def _description(knowledge: Knowledge) -> str:
    return {
        Knowledge.LABEL: "the label",
        Knowledge.TOP_K: "top-k confidences",
        Knowledge.CONFIDENCE: "the confidence vector",
    }[knowledge]
