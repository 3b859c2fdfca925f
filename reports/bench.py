"""Tables of a comparison of detectors: which attacks each one stops, and a summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mifsim.statistics import clopper_pearson
from mifsim.tables.bench_schemas import BENCH_SCHEMAS
from mifsim.tables.records import TableWriter, read_checked
from mifsim.tables.storage import Folder
from reports.baselines import BaselineConfidence, baseline_table
from reports.matrix import attack_matrix, cell_result
from reports.tables import facts

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
    replayed = _replayed_cells(run)
    folders = {knows: run / folder for knows, folder in CLOSED_LOOP.items()}
    simulated = [_simulated_cells(folder, knows) for knows, folder in folders.items() if folder.is_dir()]
    found = pd.concat([replayed, *simulated], ignore_index=True)
    baseline = _baselines(run)
    found["leakage_without_queries"], found["leakage_labelled"] = baseline.zero_query, baseline.labelled
    for column, confidence in (("stopped", baseline.zero_query), ("stopped_labelled", baseline.largest)):
        found[column] = [
            cell_result(
                row["blocked"] / row["attackers"], row["leakage_at_block"], row["leakage_undefended"], confidence
            )
            == "stopped"
            for row in found.to_dict("records")
        ]
    ordered: pd.DataFrame = found[BENCH_SCHEMAS["cells"].names]
    return ordered


def _baselines(run: Folder) -> BaselineConfidence:
    """Return the baselines of one of the simulations; they are the same in all."""
    scored = [run / folder for folder in CLOSED_LOOP.values() if (run / folder / "leakage").is_dir()]
    return BaselineConfidence.of(baseline_table(scored[0]) if scored else None)


def _replayed_cells(run: Folder) -> pd.DataFrame:
    outcomes = bench_table(run, "bench_outcomes")
    scopes = _scopes(run)
    rows: list[dict[str, Any]] = []
    keys = ["detector", "attack", "evasion", "knows_detector"]
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
            "mean_queries": float(group["queries_to_block"].fillna(group["budget_queries"]).mean()),
            "leakage_at_block": float(group["leakage_at_block"].mean()),
            "leakage_undefended": float(group["leakage_undefended"].mean()),
        }
        # The outcome of a single session does not depend on the scope.
        rows += [{**row, "scope": scope} for scope in scopes]
    return pd.DataFrame(rows)


def _simulated_cells(run: Folder, knows: bool) -> pd.DataFrame:
    rows = []
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
                "mean_queries": row["queries_to_block"],
                "leakage_at_block": row["leakage_at_block"],
                "leakage_undefended": row["leakage_undefended"],
            }
        )
    return pd.DataFrame(rows)


def _scopes(run: Folder) -> list[str]:
    import tomllib

    study = tomllib.loads((run / "study.toml").read_text(encoding="utf-8"))
    return list(study["bench"]["scopes"])


def summary(run: Folder) -> pd.DataFrame:
    """Return one row for each detector: cells stopped by scope, worst workload on the test split, and costs."""
    table, workloads = bench_table(run, "cells"), bench_table(run, "workloads")
    rows = []
    for detector in bench_table(run, "detectors").to_dict("records"):
        name = detector["detector"]
        of_detector, test = (
            table[table["detector"] == name],
            workloads[(workloads["detector"] == name) & (workloads["split"] == "test")],
        )
        row: dict[str, Any] = {"detector": name, "calibrated": detector["calibrated"], "kind": detector["kind"]}
        for scope in _scopes(run):
            of_scope = of_detector[of_detector["scope"] == scope]
            for knows, label in ((False, "stopped"), (True, "stopped_knowing")):
                chosen = of_scope[of_scope["knows_detector"] == knows]
                row[f"{label}_{scope}"] = int(chosen["stopped"].sum())
                row[f"cells_{label}_{scope}"] = len(chosen)
        worst = None if test.empty else test.assign(rate=test["blocked"] / test["sessions"]).nlargest(1, "rate").iloc[0]
        row["worst_workload"] = None if worst is None else worst["workload"]
        row["worst_rate"] = np.nan if worst is None else float(worst["rate"])
        row["worst_high"] = np.nan if worst is None else float(worst["high"])
        row["certified"] = bool(len(test) and test["certified"].all())
        row["microseconds_a_query"], row["bytes_a_query"] = detector["microseconds_a_query"], detector["bytes_a_query"]
        rows.append(row)
    return pd.DataFrame(rows)


def write_bench(run: Folder) -> None:
    """Write ``cells.parquet`` to the run folder of a comparison."""
    known = facts(run)
    metadata = {"run_id": str(known.get("run_id", "")), "study": str(known.get("study", ""))}
    table = cells(run)
    plain = table.astype(object).where(table.notna(), None)
    with TableWriter(run / "cells.parquet", "cells", metadata, BENCH_SCHEMAS["cells"]) as writer:
        writer.write({column: plain[column].tolist() for column in writer.schema.names})


def print_bench(run: Folder) -> None:
    """Print the summary of a comparison."""
    import sys

    from rich.console import Console
    from rich.table import Table

    found = summary(run)
    scopes = _scopes(run)
    table = Table(title="Detectors", title_justify="left")
    table.add_column("detector")
    for scope in scopes:
        table.add_column(f"stopped ({scope})", justify="right")
        table.add_column("by who knows it", justify="right")
    for title in ("worst workload, test", "95% upper", "µs/query", "bytes/query"):
        table.add_column(title, justify="right")
    for row in found.to_dict("records"):
        values = []
        for scope in scopes:
            labels = ("stopped", "stopped_knowing")
            values += [f"{row[f'{label}_{scope}']}/{row[f'cells_{label}_{scope}']}" for label in labels]
        if row["kind"] is None:
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
