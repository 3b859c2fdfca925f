"""The closing table on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from reports.tables import attack_table, facts, failures, floor_table, user_table


def print_summary(run: Path, console: Console | None = None) -> None:
    """Print who was blocked, when, what they held, and which honest users were thrown out."""
    # Without a terminal there is no width to keep to: a table in a log file must not be broken at 80 columns.
    out = console or Console(width=None if sys.stdout.isatty() else 120)
    known = facts(run)
    _print_attacks(run, out)
    _print_users(run, out)
    victim = known.get("victim", {})
    if "test_accuracy" in victim:
        out.print(f"victim: {victim.get('model', '')}, test accuracy {victim['test_accuracy']:.2%}", highlight=False)
    failed = failures(run)
    if len(failed):
        first = failed.iloc[0]
        out.print(
            f"[bold]{len(failed)} sessions failed[/], the first: {first.session_id}: {first.error}",
            highlight=False,
        )
    out.print(f"the tables are in {run}", highlight=False)


def _print_attacks(run: Path, out: Console) -> None:
    frame = attack_table(run)
    if frame.empty:
        return
    table = Table(title="Attackers", title_justify="left")
    for name in ("filter", "attack"):
        table.add_column(name)
    for name in (
        "blocked",
        "queries to block: median",
        "mean",
        "at the end: victim's confidence",
        "evaluator's",
        "hit",
        "distance",
    ):
        table.add_column(name, justify="right")
    previous = None
    for row in frame.to_dict("records"):
        if previous not in (None, row["filter"]):
            table.add_section()
        median = "-" if np.isnan(row["median_queries_to_block"]) else f"{row['median_queries_to_block']:.0f}"
        mean = ("> " if row["blocked"] < row["sessions"] else "") + f"{row['restricted_mean_queries']:.0f}"
        held = (
            (
                f"{row['evaluator_confidence']:.2f}",
                f"{row['evaluator_hit_share']:.0%}",
                f"{row['feature_distance']:.1f}",
            )
            if "evaluator_hit_share" in row
            else ("-", "-", "-")
        )
        table.add_row(
            row["filter"] if row["filter"] != previous else "",
            row["attack"],
            f"{row['blocked']}/{row['sessions']}",
            median,
            mean,
            f"{row['victim_confidence']:.2f}",
            *held,
        )
        previous = row["filter"]
    out.print(table)
    floors = floor_table(run)
    if floors is not None:
        for floor in floors.to_dict("records"):
            out.print(
                f"without a query ({floor['kind']}): evaluator hit {floor['evaluator_hit']:.0%}, "
                f"confidence {floor['evaluator_confidence']:.2f}, distance {floor['feature_distance']:.2f}",
                highlight=False,
            )


def _print_users(run: Path, out: Console) -> None:
    frame = user_table(run)
    if frame.empty:
        return
    table = Table(title="Honest users", title_justify="left")
    for name in ("filter", "workload"):
        table.add_column(name)
    for name in ("blocked", "false positive rate", "95% interval", "mean queries"):
        table.add_column(name, justify="right")
    previous = None
    for row in frame.to_dict("records"):
        if previous not in (None, row["filter"]):
            table.add_section()
        table.add_row(
            row["filter"] if row["filter"] != previous else "",
            row["workload"] + (" (worst)" if row["worst"] else ""),
            f"{row['blocked']}/{row['sessions']}",
            f"{row['false_positive_rate']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            f"{row['mean_queries']:.0f}",
        )
        previous = row["filter"]
    out.print(table)
