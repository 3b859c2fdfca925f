"""Summary of a run on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mifsim.tables.storage import Folder
from reports.baselines import LABELLED, baseline_table, labelled_gap
from reports.left_out import print_left_out
from reports.matrix import matrix_page
from reports.tables import attack_table, facts, failures, user_table
from reports.wording import accuracy, confirmation, doubtful_accuracy, not_deterministic, value


def print_summary(run: Folder, console: Console | None = None) -> None:
    """Print blocked attackers, queries to block, leakage, false positives, and the result of a calibration."""
    # Not on a terminal, for example in a log file, the default width of 80 columns would wrap the tables.
    out = console or Console(width=None if sys.stdout.isatty() else 120)
    known = facts(run)
    _print_attacks(run, out)
    _print_matrix(run, out)
    _print_users(run, out)
    for name, log in (known.get("logs") or {}).items():
        for note in log.get("notes", ()):
            out.print(f"{name}: {note}", highlight=False, markup=False)
    victim = known.get("victim", {})
    if "test_accuracy" in victim:
        out.print(f"victim: {victim.get('model', '')}, {accuracy(victim)}", highlight=False)
    for note in doubtful_accuracy(victim):
        out.print(note, highlight=False, markup=False)
    if note := not_deterministic(victim):
        out.print(note, highlight=False)
    failed = failures(run)
    if len(failed):
        first = failed.iloc[0]
        out.print(
            f"[bold]{len(failed)} sessions failed[/]; first error: {first.session_id}: {first.error}",
            highlight=False,
        )
    if "tuning" in known:
        _print_calibration(known["tuning"], run, out)
        print_left_out(run, out)
    out.print(f"Tables: {run}", highlight=False)


def _print_calibration(found: Mapping[str, Any], run: Folder, out: Console) -> None:
    """Print the quality of the search, the chosen configuration and its guarantee."""
    if found.get("closed_loop"):
        out.print(
            f"Closed-loop clients, which ran live in every search trial: {', '.join(found['closed_loop'])}. "
            "With them there is no reference front.",
            highlight=False,
        )
    if "hypervolume_share" in found:
        reached = found.get("trials_to_98_percent")
        out.print(
            f"The search found {found['hypervolume_share']:.1%} of the reference hypervolume in "
            f"{found['trials']} trials" + (f" (98% after {reached})" if reached else ""),
            highlight=False,
        )
    if found.get("chosen") is None:
        reason = found.get("why_none") or "the run ended before the certification"
        out.print(f"[bold]No configuration was chosen[/]: {reason}", highlight=False)
        return
    chosen = ", ".join(f"{key} = {value(item)}" for key, item in found["chosen"].items())
    out.print(f"[bold]{chosen}[/]\n{found['guarantee']}", highlight=False)
    if "confirmed_sessions" in found:
        out.print(confirmation(found), highlight=False)
    out.print(f"Configuration: {run / 'filter.toml'}", highlight=False)


def _print_attacks(run: Folder, out: Console) -> None:
    frame = attack_table(run)
    if frame.empty:
        return
    table = Table(title="Attackers", title_justify="left")
    table.add_column("filter")
    table.add_column("attack", overflow="fold", min_width=min(24, int(frame["attack"].str.len().max())))
    several = frame["sessions_used"].gt(1).any()
    for name in (
        *(("sessions used", "clients used") if several else ()),
        "blocked",
        "median queries to block",
        "mean queries to block",
        "victim confidence",
        "evaluator confidence",
        "evaluator hits",
        "feature distance",
    ):
        table.add_column(name, justify="right")
    previous = None
    for row in frame.to_dict("records"):
        if previous not in (None, row["filter"]):
            table.add_section()
        median = "-" if np.isnan(row["median_queries_to_block"]) else f"{row['median_queries_to_block']:.0f}"
        mean = ("> " if row["blocked"] < row["sessions"] else "") + f"{row['restricted_mean_queries']:.0f}"
        leaked = (
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
            *((f"{row['sessions_used']:.1f}", f"{row['clients_used']:.1f}") if several else ()),
            f"{row['blocked']}/{row['sessions']}",
            median,
            mean,
            f"{row['victim_confidence']:.2f}",
            *leaked,
        )
        previous = row["filter"]
    out.print(table)
    baselines = baseline_table(run)
    if baselines is not None:
        for baseline in baselines.to_dict("records"):
            name = "labelled baseline" if baseline["kind"] == LABELLED else f"zero-query baseline ({baseline['kind']})"
            out.print(
                f"{name}: evaluator hits {baseline['evaluator_hit']:.0%}, "
                f"evaluator confidence {baseline['evaluator_confidence']:.2f}, "
                f"feature distance {baseline['feature_distance']:.2f}",
                highlight=False,
            )
        if gap := labelled_gap(run):
            out.print(gap, highlight=False)


def _print_matrix(run: Folder, out: Console) -> None:
    """Print the number of stopped, delayed and lost attacks of each filter, if the run has an attack matrix."""
    matrix = matrix_page(run)
    if matrix is None:
        return
    for name, zero_query, labelled in matrix.tally:
        out.print(f"attack matrix, {name}: {zero_query} (from the better zero-query baseline)", highlight=False)
        if labelled:
            out.print(f"attack matrix, {name}: {labelled} (from the best of all three baselines)", highlight=False)


def _print_users(run: Folder, out: Console) -> None:
    frame = user_table(run)
    if frame.empty:
        return
    table = Table(title="Honest users", title_justify="left")
    for name in ("filter", "workload"):
        table.add_column(name)
    for name in ("blocked", "false-positive rate", "95% interval", "mean queries"):
        table.add_column(name, justify="right")
    from_log = frame["lost_share"].notna().any()
    if from_log:
        table.add_column("lost rows", justify="right")
    previous = None
    for row in frame.to_dict("records"):
        if previous not in (None, row["filter"]):
            table.add_section()
        lost = "-" if np.isnan(row["lost_share"]) else f"{row['lost_share']:.2%}"
        table.add_row(
            row["filter"] if row["filter"] != previous else "",
            row["workload"] + (" (worst)" if row["worst"] else ""),
            f"{row['blocked']}/{row['sessions']}",
            f"{row['false_positive_rate']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            f"{row['mean_queries']:.0f}",
            *((lost,) if from_log else ()),
        )
        previous = row["filter"]
    out.print(table)
