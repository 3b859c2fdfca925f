"""The honest sessions that each detector of a comparison blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mifsim.defense import DetectorConfig
from mifsim.study import Study
from tuning.assess import assess
from tuning.tracedata import TraceSet

UNSEEN = "unseen"
"""Value of the column ``split`` for users that no detector is calibrated for."""


def study_of_unseen(study: Study) -> Study | None:
    """Return a study with the users of ``[[bench.unseen]]`` alone, or None if there are none.

    Each of the splits has images of its own, as in the calibrations, so that the sessions outside of the search split
    show no image that a search has seen.
    """
    if not study.bench.unseen:
        return None
    plain = study.to_toml()
    plain["users"] = [users.to_toml() for users in study.bench.unseen]
    plain["attacks"] = []
    plain["bench"] = {**study.bench.to_toml(), "unseen": []}
    if isinstance(plain["tuning"]["false_positive_limit"], dict):
        plain["tuning"]["false_positive_limit"] = limit_of_unseen(study)
    return Study.parse(plain, study.name)


def limit_of_unseen(study: Study) -> float:
    """Return the limit with which unseen users are compared: the smallest one of the calibrated workloads."""
    return min(study.tuning.limit(users.name) for users in study.users)


def workload_rows(
    study: Study,
    name: str,
    config: DetectorConfig,
    certified: bool,
    traces: Mapping[str, TraceSet],
    images: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table ``workloads`` of one detector.

    Parameters
    ----------
    study : Study
    name, config : str, DetectorConfig
        The detector.
    certified : bool
        Whether the configuration results from a calibration.
    traces : mapping of str to TraceSet
        The recordings by the value of the column ``split``.
    images : mapping of str to int
        Number of different images by workload.
    """
    for split, of_split in traces.items():
        for found in assess(of_split, config, study.tuning.confidence):
            if found.is_attack:
                continue
            limit = limit_of_unseen(study) if split == UNSEEN else study.tuning.limit(found.group)
            for scope in study.bench.scopes:
                yield {
                    "detector": name,
                    "scope": scope,
                    "workload": found.group,
                    "split": split,
                    "sessions": found.sessions,
                    "blocked": found.blocked,
                    "low": found.low,
                    "high": found.high,
                    "limit": limit,
                    "certified": certified and split != UNSEEN,
                    "distinct_images": images[found.group],
                }
