"""The certificates of a comparison, computed anew from its counts, and the sessions of honest users in each split."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mifsim.clients.users.log import Log
from mifsim.errors import RunError
from mifsim.statistics import clopper_pearson
from mifsim.study import Study
from mifsim.study.populations import Users
from mifsim.study.splitting import cuts
from mifsim.tables.records import read_single
from tuning.admission.parts import Parts
from tuning.admission.tables import rows_of
from tuning.bench_workloads import UNSEEN, limit_of_unseen
from tuning.hypotheses import fixed_sequence, holm, p_values

_RELATIVE = 1e-9
"""Relative difference up to which p-values and intervals are equal, whatever the version of scipy."""


def check_certificates(parts: Parts) -> int:
    """Test the counts of each calibration anew, and compare the result with its ``filter.toml``; return their number.

    The limits and the confidence are those of the study. The chosen configuration must be certified by the study's
    procedure, with the p-values of the recorded counts in the recorded order of testing.

    Raises
    ------
    RunError
        If a p-value, a limit, a count or the result differs.
    """
    certified = 0
    for detector, study in parts.calibrations.items():
        if parts.configs[detector] is None:
            continue
        folder = parts.calibration(detector)
        path = folder / "certification.parquet"
        rows = read_single(path, "certification").to_pylist()
        tested: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            tested.setdefault((row["kind"], row["config"]), []).append(row)
        p = [_p_value(path, study, of_one) for of_one in tested.values()]
        delta = 1 - study.tuning.confidence
        passed = (fixed_sequence if study.tuning.procedure == "fixed_sequence" else holm)(p, delta)
        chosen = [number for number, of_one in enumerate(tested.values()) if of_one[0]["chosen"]]
        if len(chosen) != 1 or not passed[chosen[0]]:
            raise RunError(
                f"{path}: chosen: {len(chosen)} configurations, of which {int(passed[chosen].sum())} are certified "
                f"with {study.tuning.confidence:g} confidence by {study.tuning.procedure} (accepted: one, certified)"
            )
        _check_stated(folder / "filter.toml", study, list(tested.values())[chosen[0]], p[chosen[0]])
        certified += 1
    return certified


def _p_value(path: Path, study: Study, rows: list[dict[str, Any]]) -> float:
    """Return the p-value of one configuration after checking the rows of its workloads."""
    limits = {users.name: study.tuning.limit(users.name) for users in study.users}
    if [row["workload"] for row in rows] != list(limits):
        names = ", ".join(row["workload"] for row in rows)
        raise RunError(f"{path}: workload = {names} (accepted: {', '.join(limits)}, for each configuration)")
    for row in rows:
        p = float(p_values([row["blocked"]], [row["sessions"]], [row["limit"]]))
        for key, value in (("limit", limits[row["workload"]]), ("p_value", p)):
            if not _equal(row[key], value):
                raise RunError(f"{path}: {row['workload']}: {key} = {row[key]!r} (accepted: {value!r})")
    return max(float(row["p_value"]) for row in rows)


def _check_stated(path: Path, study: Study, rows: list[dict[str, Any]], p: float) -> None:
    """Raise an error if a ``filter.toml`` states another guarantee than the rows of its configuration."""
    stated = tomllib.loads(path.read_text(encoding="utf-8")).get("guarantee", {})
    for key, value in (("confidence", study.tuning.confidence), ("p_value", p)):
        if not _equal(stated.get(key, np.nan), value):
            raise RunError(f"{path}: guarantee.{key} = {stated.get(key)!r} (accepted: {value!r})")
    found = [
        (row.get("name"), row.get("false_positive_limit"), row.get("sessions"), row.get("blocked"))
        for row in stated.get("workloads", [])
    ]
    expected = [(row["workload"], row["limit"], row["sessions"], row["blocked"]) for row in rows]
    for one, other in zip(found, expected, strict=False):
        if one != other:
            raise RunError(f"{path}: guarantee.workloads: {one} (accepted: {other}, as in certification.parquet)")
    if len(found) != len(expected):
        raise RunError(f"{path}: guarantee.workloads: {len(found)} (accepted: the {len(expected)} of the study)")


def check_splits_of_users(parts: Parts) -> int:
    """Check the honest sessions in the table ``workloads``; return the number of its rows.

    Each detector has every workload of the study in every split, with as many sessions as the study puts there, and the
    same counts in each scope. Limits are the study's, and intervals follow from the counts. Calibrated detectors, and
    no others, are certified.

    Raises
    ------
    RunError
        If a row differs.
    """
    path, study = parts.run / "workloads.parquet", parts.study
    rows = rows_of(parts, "workloads")
    found = {tuple(row[key] for key in _KEYS): row for row in rows}
    wanted = {
        (detector, workload, split, scope): (sessions, limit)
        for detector, config in parts.configs.items()
        if config is not None and config.replayable()
        for workload, split, sessions, limit in _expected(study)
        for scope in study.bench.scopes
    }
    if len(rows) != len(wanted) or found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys()) or [("", "", "", "")]
        named = ", ".join(f"{key} = {value!r}" for key, value in zip(_KEYS, odd[0], strict=True))
        raise RunError(
            f"{path}: {named}: missing, or not of the study ({len(rows):,} rows; accepted: {len(wanted):,}, one for "
            "each detector, workload, split and scope of the study)"
        )
    calibrated = {detector.name for detector in study.bench.detectors}
    for key, row in found.items():
        first = found[(*key[:3], study.bench.scopes[0])]
        low, high = clopper_pearson(row["blocked"], row["sessions"], study.tuning.confidence)
        sessions, limit = wanted[key]
        expected = {
            "sessions": row["sessions"] if sessions is None else sessions,
            "blocked": first["blocked"],
            "limit": limit,
            "low": low,
            "high": high,
            "certified": row["detector"] in calibrated and row["split"] != UNSEEN,
        }
        for column, value in expected.items():
            if not _equal(row[column], value):
                named = ", ".join(f"{name} = {part!r}" for name, part in zip(_KEYS, key, strict=True))
                raise RunError(f"{path}: {named}: {column} = {row[column]!r} (accepted: {value!r})")
    return len(rows)


_KEYS = ("detector", "workload", "split", "scope")


def _expected(study: Study) -> Iterator[tuple[str, str, int | None, float]]:
    """Yield workload, split, number of sessions (None: of a log, which is not read) and limit."""
    for users in study.users:
        calibration, test = _sizes(study, users)
        for split, size in (("calibration", calibration), ("test", test)):
            yield users.name, split, size, study.tuning.limit(users.name)
    for users in study.bench.unseen:
        calibration, test = _sizes(study, users)
        both = None if calibration is None or test is None else calibration + test
        yield users.name, UNSEEN, both, limit_of_unseen(study)


def _sizes(study: Study, users: Users) -> tuple[int | None, int | None]:
    if isinstance(users.client, Log):
        return None, None
    first, last = cuts(study.tuning.splits, users.count)
    return last - first, users.count - last


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= _RELATIVE * max(abs(one), abs(other))
    return bool(one == other)
