"""The rows of a run on a board: its cells, with the guarantee of each detector and what identifies the run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mifsim.errors import RunError
from mifsim.tables.board_schema import BOARD_SCHEMAS
from reports.bench import CALIBRATIONS, bench_table, scopes
from reports.results_board.files import Digests
from reports.tables import facts
from reports.wording import count, limit

COLUMNS = BOARD_SCHEMAS["board"].names
_OF_CELLS = (
    "detector", "scope", "attack", "evasion", "knows_detector", "attackers", "blocked", "low", "high", "mean_queries",
    "budget_queries", "leakage_at_block", "leakage_undefended", "leakage_without_queries", "leakage_labelled",
    "stopped", "stopped_labelled",
)  # fmt: skip
"""Columns that are those of the table ``cells``."""


@dataclass(frozen=True)
class Admission:
    """What the checks of a run found.

    Attributes
    ----------
    run_digest : str
        See `mifsim.tables.digests.run_digest`.
    digests : {"equal", "not recorded"}
        See `reports.results_board.files.FileCheck`.
    replayed_live : int
        Number of attackers that the check ran live again.
    checked, not_checked : str
        In words.
    """

    run_digest: str
    digests: Digests
    replayed_live: int
    checked: str
    not_checked: str


def board_rows(run: Path, admission: Admission) -> pd.DataFrame:
    """Return the rows of a comparison: one for each detector, scope, attack, row of evasions and `knows_detector`.

    A detector of which no configuration was certified has one row without an attack.

    Parameters
    ----------
    run : Path
        The run folder of a complete comparison.
    admission : Admission

    Returns
    -------
    DataFrame
        The columns of the table ``board``.

    Raises
    ------
    RunError
        If a table is missing or damaged.
    """
    known = facts(run)
    victim = known["victim"]
    versions = dict(known["versions"])
    of_run = {
        "run_id": known["run_id"],
        "study": known["study"],
        "data_set": known["data"]["name"],
        "finished": known["finished"],
        "run_digest": admission.run_digest,
        "study_fingerprint": known["study_fingerprint"],
        "seed": int(known["seed"]),
        "mifsim_version": versions.pop("mifsim", None),
        "versions": json.dumps(versions, sort_keys=True),
        "revision": known.get("git_revision"),
        "victim": f"{victim.get('model', 'not stated')}, fingerprint {victim.get('fingerprint', 'not stated')}",
        "digests": admission.digests,
        "replayed_live": admission.replayed_live,
        "checked": admission.checked,
        "not_checked": admission.not_checked,
    }
    of_detector = _detectors(run)
    rows = [
        {**of_run, **of_detector[cell["detector"], cell["scope"]], **{name: cell[name] for name in _OF_CELLS}}
        for cell in bench_table(run, "cells").to_dict("records")
    ]
    met = {row["detector"] for row in rows}
    without = {detector: row for (detector, _), row in of_detector.items() if detector not in met}
    rows += [{**of_run, **row, "detector": detector} for detector, row in without.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _detectors(run: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return, for each detector and scope, its configuration, its guarantee, and its honest users who fare worst."""
    workloads = bench_table(run, "workloads")
    found = {}
    for row in bench_table(run, "detectors").to_dict("records"):
        users = workloads[workloads["detector"].eq(row["detector"]) & workloads["scope"].eq(row["scope"])]
        folder = run / CALIBRATIONS / str(row["detector"])
        certificate = _certificate(folder)
        certified = bool(row["calibrated"]) and certificate is not None
        found[str(row["detector"]), str(row["scope"])] = {
            "kind": row["kind"],
            "configuration": row["configuration"],
            "certified": certified,
            **(_guarantee(certificate) if certificate is not None else _no_guarantee(folder, bool(row["calibrated"]))),
            **_worst(users[users["split"] == "test"], "worst"),
            **_worst(users[users["split"] == "unseen"], "unseen"),
        }
    assert {scope for _, scope in found} <= set(scopes(run))
    return found


def _certificate(folder: Path) -> Mapping[str, Any] | None:
    """Return the guarantee in the ``filter.toml`` of a calibration; None without one."""
    path = folder / "filter.toml"
    if not path.is_file():
        return None
    try:
        stated: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["guarantee"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path}: guarantee: {error!r} (accepted: the file as mifsim tune wrote it)") from None
    return stated


def _guarantee(certificate: Mapping[str, Any]) -> dict[str, Any]:
    workloads = certificate["workloads"]
    limits = sorted({float(row["false_positive_limit"]) for row in workloads})
    share = limit(limits[0]) if len(limits) == 1 else f"{limit(limits[0])} to {limit(limits[-1])}"
    confidence = float(certificate["confidence"])
    return {
        "limit": limits[-1],
        "confidence": confidence,
        "workloads": len(workloads),
        "guarantee": f"with {100 * confidence:.4g}% confidence, blocks at most {share} of the honest sessions of "
        f"{'each of ' if len(workloads) > 1 else ''}{count(len(workloads), 'workload')}",
    }


def _no_guarantee(folder: Path, calibrated: bool) -> dict[str, Any]:
    why = "a configuration of the study, used as it is"
    if calibrated:
        stated = (facts(folder).get("tuning") or {}).get("why_none") if (folder / "run.json").is_file() else None
        why = str(stated or "no configuration was certified, and the run does not record why")
    return {"limit": None, "confidence": None, "workloads": None, "guarantee": f"none: {why}"}


def _worst(users: pd.DataFrame, name: str) -> dict[str, Any]:
    if users.empty:
        return {f"{name}_workload": None, f"{name}_rate": None}
    rated = users.assign(rate=users["blocked"] / users["sessions"])
    worst = rated.sort_values(["rate", "high"], ascending=False, kind="stable").iloc[0]
    return {f"{name}_workload": str(worst["workload"]), f"{name}_rate": float(worst["rate"])}
