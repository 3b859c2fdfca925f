"""Tables of a comparison of detectors: which attacks each one stops, and a summary."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import pandas as pd

from mifsim.errors import RunError
from mifsim.statistics import clopper_pearson
from mifsim.tables.bench_schemas import BENCH_SCHEMAS
from mifsim.tables.records import TableWriter, read_checked
from mifsim.tables.storage import Folder
from reports.baselines import BaselineConfidence, baseline_table
from reports.matrix import attack_matrix, cell_result
from reports.tables import attackers, facts, sessions
from reports.wording import missing

QUARTER = 0.25
"""Share of the budget within which attackers are blocked in a cell that counts as ``within_quarter``."""
MEASURES = ("stopped", "stopped_labelled", "within_quarter")
"""Columns of ``cells`` that count as success of a detector."""
CALIBRATIONS = "calibrations"
"""Folder of the run that contains the calibrations, one run folder for each detector."""
CLOSED_LOOP = {False: "closed-loop/matrix", True: "closed-loop/knowing"}
"""Run folders of the simulations of closed-loop attackers, by `knows_detector`."""


def bench_table(run: Folder, name: str) -> pd.DataFrame:
    """Return a table of a comparison.

    Raises
    ------
    RunError
        If the file is missing or damaged.
    """
    frame: pd.DataFrame = read_checked(run / f"{name}.parquet", BENCH_SCHEMAS[name]).to_pandas()  # type: ignore[arg-type]
    return frame


def cells(run: Folder) -> pd.DataFrame:
    """Return one row for each detector, scope, attack and row of evasions, with the columns of ``cells``."""
    replayed = _replayed_cells(run, bench_table(run, "bench_outcomes"))
    folders = {knows: run / folder for knows, folder in CLOSED_LOOP.items()}
    simulated = [_simulated_cells(folder, knows) for knows, folder in folders.items() if folder.is_dir()]
    tables = [table for table in (replayed, *simulated) if not table.empty]
    if not tables:
        return pd.DataFrame(columns=BENCH_SCHEMAS["cells"].names)
    found = pd.concat(tables, ignore_index=True)
    baseline = _baselines(run)
    found["leakage_without_queries"], found["leakage_labelled"] = baseline.zero_query, baseline.labelled
    for column, confidence in (("stopped", baseline.zero_query), ("stopped_labelled", baseline.largest)):
        found[column] = _stopped(found, confidence)
    ordered: pd.DataFrame = found[BENCH_SCHEMAS["cells"].names]
    return ordered


def _stopped(table: pd.DataFrame, baseline: float) -> list[bool]:
    return [
        cell_result(row["blocked"] / row["attackers"], row["leakage_at_block"], row["leakage_undefended"], baseline)
        == "stopped"
        for row in table.to_dict("records")
    ]


def ablations(run: Folder) -> pd.DataFrame:
    """Return, for each part of each detector, the cells that are stopped with it and without it.

    Only cells whose attackers can be replayed are counted, because the variants do not run live. Empty if the run has
    no such table.
    """
    empty = pd.DataFrame(columns=BENCH_SCHEMAS["ablations"].names)
    if not (run / "bench_ablations.parquet").is_file():
        return empty
    variants, whole = bench_table(run, "bench_ablations"), _replayed_cells(run, bench_table(run, "bench_outcomes"))
    if variants.empty:
        return empty
    baseline = _baselines(run).zero_query
    whole = whole[whole["scope"] == scopes(run)[0]]
    whole["stopped"] = _stopped(whole, baseline)
    rows = []
    variants[["detector", "without"]] = variants[["detector", "without"]].astype(str)
    for (detector, part), group in variants.groupby(["detector", "without"], sort=False):
        without = _replayed_cells(run, group.drop(columns="without"))
        without = without[without["scope"] == scopes(run)[0]]
        without["stopped"] = _stopped(without, baseline)
        for knows, of_group in without.groupby("knows_detector"):
            same = whole[(whole["detector"] == detector) & (whole["knows_detector"] == knows)]
            counts = {
                "cells": len(of_group),
                "stopped": int(same["stopped"].sum()),
                "stopped_without": int(of_group["stopped"].sum()),
            }
            rows.append({"detector": detector, "without": part, "knows_detector": bool(knows), **counts})
    return pd.DataFrame(rows, columns=empty.columns)


def _baselines(run: Folder) -> BaselineConfidence:
    """Return the baselines of one of the simulations; they are the same in all."""
    scored = [run / folder for folder in CLOSED_LOOP.values() if (run / folder / "leakage").is_dir()]
    return BaselineConfidence.of(baseline_table(scored[0]) if scored else None)


def _replayed_cells(run: Folder, outcomes: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    keys = ["detector", "attack", "evasion", "knows_detector"]
    outcomes[keys[:3]] = outcomes[keys[:3]].astype(str)  # groups of categories would be in alphabetical order
    for (detector, attack, evasion, knows), group in outcomes.groupby(keys, observed=True, sort=False):
        blocked = int(group["queries_to_block"].notna().sum())
        low, high = clopper_pearson(blocked, len(group))
        row = {
            "detector": str(detector),
            "attack": str(attack),
            "evasion": str(evasion),
            "knows_detector": bool(knows),
            "attackers": len(group),
            "blocked": blocked,
            "low": low,
            "high": high,
            "within_quarter": _within_quarter(group),
            "budget_queries": int(group["budget_queries"].max()),
            "mean_queries": float(group["queries_to_block"].fillna(group["budget_queries"]).mean()),
            "leakage_at_block": float(group["leakage_at_block"].mean()),
            "leakage_undefended": float(group["leakage_undefended"].mean()),
        }
        # The outcome of a single session does not depend on the scope.
        rows += [{**row, "scope": scope} for scope in scopes(run)]
    return pd.DataFrame(rows)


def _within_quarter(group: pd.DataFrame) -> bool:
    """Return whether all attackers of a cell are blocked within `QUARTER` of their budgets; NaN: never blocked."""
    return bool((group["queries_to_block"] <= QUARTER * group["budget_queries"]).all())


def _simulated_cells(run: Folder, knows: bool) -> pd.DataFrame:
    rows = []
    by_cell = attackers(sessions(run)).groupby(["filter", "population"], observed=True)
    quick = {key: _within_quarter(group) for key, group in by_cell}
    for row in attack_matrix(run).to_dict("records"):
        detector, _, scope = str(row["filter"]).rpartition(".")
        blocked = round(row["blocked_share"] * row["attackers"])
        low, high = clopper_pearson(blocked, row["attackers"])
        rows.append(
            {
                "detector": detector,
                "scope": scope,
                "attack": row["attack"],
                "evasion": row["evasions"],
                "knows_detector": knows,
                "attackers": row["attackers"],
                "blocked": blocked,
                "low": low,
                "high": high,
                "within_quarter": quick[row["filter"], row["population"]],
                "budget_queries": row["budget_queries"],
                "mean_queries": row["queries_to_block"],
                "leakage_at_block": row["leakage_at_block"],
                "leakage_undefended": row["leakage_undefended"],
            }
        )
    return pd.DataFrame(rows)


def scopes(run: Folder) -> list[str]:
    """Return the scopes in which the detectors are compared.

    Raises
    ------
    RunError
        If the run's study cannot be read, or has no ``[bench]`` section.
    """
    path = run / "study.toml"
    try:
        return list(tomllib.loads(path.read_text(encoding="utf-8"))["bench"]["scopes"])
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}; expected the study as a TOML file") from None
    except KeyError:
        raise RunError(f"{path}: bench.scopes: missing (expected the study of a run of mifsim bench)") from None


def summary(run: Folder) -> pd.DataFrame:
    """Return one row for each detector: cells stopped by scope, worst workload on the test split, and costs.

    Returns
    -------
    DataFrame
        In the order of ``detectors``. Columns:

        * ``detector``, ``calibrated``, ``kind``, ``configuration``, ``microseconds_a_query``, ``bytes_a_query``: as
          there, the configuration in the first scope
        * for each scope, ``<m>_<scope>`` for each of `MEASURES` and ``mean_queries_<scope>``: the numbers of cells,
          and the mean over all attackers; ``<m>_knowing_<scope>`` is the same for attackers who know the detector, and
          ``cells_stopped_<scope>`` and ``cells_stopped_knowing_<scope>`` are the numbers of all cells
        * ``worst_workload``, ``worst_blocked``, ``worst_sessions``, ``worst_rate``, ``worst_low``, ``worst_high``: the
          workload with the highest false-positive rate on the test split, with its exact 95% interval
        * ``unseen_workload``, ``unseen_blocked``, ``unseen_sessions``, ``unseen_rate``: the same for the users of
          ``[[bench.unseen]]``, for whom no detector is calibrated
        * ``certified``: whether the configuration is certified
        * ``distinct_images``: different images behind the certification, for the workload with the fewest
    """
    table, workloads = bench_table(run, "cells"), bench_table(run, "workloads")
    detectors, rows = bench_table(run, "detectors"), []
    for detector in detectors[detectors["scope"] == scopes(run)[0]].drop(columns="scope").to_dict("records"):
        name = detector["detector"]
        of_detector, users = table[table["detector"] == name], workloads[workloads["detector"] == name]
        row: dict[str, Any] = {str(key): value for key, value in detector.items()}
        for scope in scopes(run):
            of_scope = of_detector[of_detector["scope"] == scope]
            for knows, suffix in ((False, scope), (True, f"knowing_{scope}")):
                chosen = of_scope[of_scope["knows_detector"] == knows]
                row |= {f"{measure}_{suffix}": int(chosen[measure].sum()) for measure in MEASURES}
                row[f"cells_stopped_{suffix}"] = len(chosen)
                row[f"mean_queries_{suffix}"] = (
                    float(np.average(chosen["mean_queries"], weights=chosen["attackers"])) if len(chosen) else np.nan
                )
        row |= _worst(users[users["split"] == "test"])
        unseen = _worst(users[users["split"] == "unseen"])
        row |= {f"unseen_{key}": unseen[f"worst_{key}"] for key in ("workload", "blocked", "sessions", "rate")}
        row["certified"] = bool(detector["calibrated"] and isinstance(detector["kind"], str))
        row["distinct_images"] = users["distinct_images"].min() if len(users) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _worst(users: pd.DataFrame) -> dict[str, Any]:
    """Return the workload with the highest false-positive rate; of equal ones, that with the highest upper bound."""
    if users.empty:
        numbers = dict.fromkeys(("blocked", "sessions", "rate", "low", "high"), np.nan)
        return {"worst_workload": None, **{f"worst_{name}": value for name, value in numbers.items()}}
    rated = users.assign(rate=users["blocked"] / users["sessions"])
    worst = rated.sort_values(["rate", "high"], ascending=False, kind="stable").iloc[0]
    return {f"worst_{name}": worst[name] for name in ("workload", "blocked", "sessions", "rate", "low", "high")}


def write_bench(run: Folder) -> None:
    """Write ``cells.parquet`` and ``ablations.parquet`` to the run folder of a comparison."""
    known = facts(run)
    metadata = {"run_id": str(known.get("run_id", "")), "study": str(known.get("study", ""))}
    for name, table in (("cells", cells(run)), ("ablations", ablations(run))):
        plain = table.astype(object).where(table.notna(), None)
        with TableWriter(run / f"{name}.parquet", name, metadata, BENCH_SCHEMAS[name]) as writer:
            if len(plain):
                writer.write({column: plain[column].tolist() for column in writer.schema.names})


def print_bench(run: Folder) -> None:
    """Print the summary of a comparison."""
    import sys

    from rich.console import Console
    from rich.table import Table

    found = summary(run)
    compared = scopes(run)
    table = Table(title="Detectors", title_justify="left")
    table.add_column("detector")
    for scope in compared:
        table.add_column(f"stopped ({scope})", justify="right")
        table.add_column("by who knows it", justify="right")
    for title in ("worst workload, test", "95% upper", "µs/query", "bytes/query"):
        table.add_column(title, justify="right")
    for row in found.to_dict("records"):
        values = []
        for scope in compared:
            labels = ("stopped", "stopped_knowing")
            values += [f"{row[f'{label}_{scope}']}/{row[f'cells_{label}_{scope}']}" for label in labels]
        if missing(row["kind"]):
            table.add_row(row["detector"], "no configuration certified")
            continue
        table.add_row(
            row["detector"] + ("" if row["certified"] else " (not certified)"),
            *values,
            f"{row['worst_rate']:.1%} {row['worst_workload']}",
            f"{row['worst_high']:.1%}",
            f"{row['microseconds_a_query']:.1f}",
            f"{row['bytes_a_query']:.0f}",
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
