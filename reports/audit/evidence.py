"""What a run shows about one detector: its certificate, its false positives, and the attacks that it met."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mifsim.errors import RunError
from mifsim.tables.storage import Folder
from reports.bench import CALIBRATIONS, bench_table
from reports.comparison import undefended
from reports.left_out import left_out_results
from reports.matrix import attack_matrix, user_matrix
from reports.styles import CALIBRATED
from reports.tables import facts, failures, filter_table
from reports.verdict import filter_file


@dataclass(frozen=True)
class Evidence:
    """The results of one detector in a run.

    Attributes
    ----------
    detector : str
        Its name in the run.
    certificate : dict
        Content of its ``filter.toml``; empty without one.
    certificate_file : str
        Path of this file in the run folder; empty without one.
    config : dict
        Its row of kind and configuration, as `reports.wording.describe` takes it.
    attacks : DataFrame
        One row for each attack and row of evasions: ``attack``, ``evasion``, ``knows_detector``, ``attackers``,
        ``blocked``, ``low``, ``high``, ``mean_queries``, ``budget_queries``, ``leakage_at_block``,
        ``leakage_undefended``, ``leakage_without_queries``, ``leakage_labelled``, ``stopped``, ``stopped_labelled``,
        and, except in a comparison, ``sessions_used`` and ``clients_used``.
    users : DataFrame
        One row for each workload of sessions that neither search nor certification used: ``workload``, ``unseen`` (the
        detector was not calibrated for it), ``sessions``, ``blocked``, ``low``, ``high``.
    left_out : str
        What users of a workload must expect that was not calibrated for; empty if the run left out none.
    failed : int
        Sessions that ended with an error, of all detectors.
    facts : dict
        Content of ``run.json``.
    tuning : dict
        Facts of the detector's calibration; empty without one.
    """

    detector: str
    certificate: Mapping[str, Any]
    certificate_file: str
    config: Mapping[str, Any]
    attacks: pd.DataFrame
    users: pd.DataFrame
    left_out: str
    failed: int
    facts: Mapping[str, Any] = field(repr=False)
    tuning: Mapping[str, Any] = field(repr=False)

    @property
    def workloads(self) -> list[dict[str, Any]]:
        """The certified workloads, each with its limit, sessions, images and longest session."""
        return list(self.certificate.get("guarantee", {}).get("workloads", []))

    @property
    def scope(self) -> str:
        """Lifetime of the detector's state: ``session`` or ``client``."""
        return str(json.loads(self.config["config"]).get("scope", "session"))

    @property
    def confidence(self) -> float:
        """Confidence of the guarantee, in (0, 1); 0 without a guarantee."""
        return float(self.certificate["guarantee"].get("confidence", 0)) if self.workloads else 0.0

    @property
    def longest(self) -> int | None:
        """Number of queries of the longest certified session; None if the certificate does not state it."""
        return max(self._stated("longest_session"), default=None)

    @property
    def images(self) -> list[int]:
        """Numbers of different images of the certified workloads; empty if the certificate does not state them."""
        return self._stated("distinct_images")

    def _stated(self, name: str) -> list[int]:
        found = [int(row[name]) for row in self.workloads if name in row]
        return found if len(found) == len(self.workloads) else []


def evidence_of(run: Folder, detector: str | None = None) -> Evidence:
    """Return what a run shows about a detector.

    Parameters
    ----------
    run : Path or RemotePath
        The folder of a calibration, a comparison of detectors, a matrix or a simulation.
    detector : str or None
        None: the calibrated configuration, or the only detector of the run.

    Raises
    ------
    RunError
        If there is no such detector; the message lists those of the run. Also if the folder is not a run folder, or a
        table is missing or damaged.
    """
    known = facts(run)
    return _of_comparison(run, known, detector) if "bench" in known else _of_sessions(run, known, detector)


def _of_sessions(run: Folder, known: Mapping[str, Any], detector: str | None) -> Evidence:
    configs = {str(name): _config(row) for name, row in filter_table(run).iterrows()}
    defended = [name for name in configs if name not in undefended(run)]
    calibrated = filter_file(run) or {}
    if detector is None and CALIBRATED in defended:
        detector = CALIBRATED
    detector = _named(run, detector, defended)
    attacks = attack_matrix(run)
    if len(attacks):
        attacks = attacks[attacks["filter"] == detector].rename(
            columns={"evasions": "evasion", "queries_to_block": "mean_queries"}
        )
        attacks = attacks.assign(
            knows_detector=False,
            blocked=(attacks["blocked_share"] * attacks["attackers"]).round().astype(int),
            stopped=attacks["outcome"].eq("stopped"),
            stopped_labelled=attacks["outcome_labelled"].map(
                lambda found: None if found is None else found == "stopped"
            ),
        )
    users = user_matrix(run)
    if len(users):
        users = users[users["filter"] == detector].assign(unseen=False)
    left_out = left_out_results(run)
    is_chosen = detector == CALIBRATED and "tuning" in known
    return Evidence(
        detector,
        calibrated if is_chosen else {},
        "filter.toml" if is_chosen and calibrated else "",
        configs[detector],
        attacks.reset_index(drop=True),
        users.reset_index(drop=True),
        left_out.warning if left_out is not None and is_chosen else "",
        len(failures(run)),
        known,
        (known.get("tuning") or {}) if is_chosen else {},
    )


def _of_comparison(run: Folder, known: Mapping[str, Any], detector: str | None) -> Evidence:
    table = bench_table(run, "detectors")
    certified = table[table["calibrated"].eq(True) & table["kind"].notna()]
    names = list(dict.fromkeys(map(str, certified["detector"])))
    detector = _named(run, detector, names)
    calibration = run / CALIBRATIONS / detector
    certificate = filter_file(calibration) or {}
    scope = certificate.get("filter", {}).get("scope", "session")
    cells, users = (
        found[found["detector"].eq(detector) & found["scope"].eq(scope)]
        for found in (bench_table(run, "cells"), bench_table(run, "workloads"))
    )
    left_out = left_out_results(calibration) if certificate else None
    users = users[users["split"] != "calibration"].assign(unseen=lambda rows: rows["split"].eq("unseen"))
    return Evidence(
        detector,
        certificate,
        f"{CALIBRATIONS}/{detector}/filter.toml" if certificate else "",
        _config(table[table["detector"].eq(detector) & table["scope"].eq(scope)].iloc[0], "configuration"),
        cells.reset_index(drop=True),
        users.reset_index(drop=True),
        left_out.warning if left_out is not None else "",
        0,
        known,
        (facts(calibration).get("tuning") or {}) if certificate else {},
    )


def _config(row: pd.Series, column: str = "config") -> dict[str, Any]:
    return {"kind": str(row["kind"]), "config": str(row[column])}


def _named(run: Folder, detector: str | None, names: list[str]) -> str:
    if detector is None and len(names) == 1:
        return names[0]
    if not names:
        raise RunError(f"{run}: an audit needs a detector, and this run has none")
    if detector not in names:
        given = "the run has several detectors" if detector is None else f"--detector {detector}: not in the run"
        raise RunError(f"{run}: {given} (accepted: --detector with one of {', '.join(names)})")
    return detector
