"""The results of a comparison of detectors in sentences: the main result, the guarantee, and what it does not cover."""

from __future__ import annotations

import math

import pandas as pd

from mifsim.statistics import clopper_pearson
from mifsim.tables.storage import Folder
from reports.bench import CALIBRATIONS, QUARTER, bench_table, scopes, summary
from reports.left_out import warning
from reports.matrix import MIN_LEAKAGE
from reports.tables import facts, leave_out_table
from reports.verdict import calibration_section
from reports.wording import confirmation, limit, listed, missing, percent

SCOPE_TEXT = {
    "client": "state kept for the client",
    "session": "state that ends with the session",
}
"""What each scope means."""


def ordered_scopes(run: Folder) -> list[str]:
    """Return the scopes that are compared; the client is first: such a block outlives the session."""
    return sorted(scopes(run), key=lambda scope: scope != "client")


def ranked(run: Folder) -> pd.DataFrame:
    """Return `reports.bench.summary`: certified detectors first, then by the number of cells stopped."""
    found, scope = summary(run), ordered_scopes(run)[0]
    if found.empty:
        return found
    known = found["kind"].notna()
    order = found.assign(known=known).sort_values(
        ["certified", "known", f"stopped_{scope}", f"stopped_knowing_{scope}"], ascending=False, kind="stable"
    )
    return order.drop(columns="known").reset_index(drop=True)


def headline(run: Folder) -> str:
    """Return the main result: the certified detectors that stop the most and the fewest cells."""
    table = ranked(run)
    certified = table[table["certified"]] if len(table) else table
    if certified.empty:
        return "No detector could be certified, so this comparison recommends none."
    sentences = [_in_scope(certified, scope, first=number == 0) for number, scope in enumerate(ordered_scopes(run))]
    shown = [sentence for sentence in sentences if sentence]
    if not shown:
        return "The study has no attack, so nothing can be said about what the detectors stop."
    return " ".join(shown)


def _in_scope(certified: pd.DataFrame, scope: str, *, first: bool) -> str:
    """Return the result in one scope; the first one explains the cells, and names the detector that stops the fewest.

    Empty if there are no cells.
    """
    stopped, total = certified[f"stopped_{scope}"], int(certified[f"cells_stopped_{scope}"].max())
    knowing, all_knowing = certified[f"stopped_knowing_{scope}"], int(certified[f"cells_stopped_knowing_{scope}"].max())
    parts = []
    if total:
        cells = "combinations of attack and evasion (cells)" if first else "cells"
        most = stopped == stopped.max()
        start = f"{_stop(certified, most)} {int(stopped.max())}" if stopped.max() else "no certified detector stops any"
        parts.append(f"{start} of {total} {cells}")
        if first and len(certified) > 1 and not most.all():
            fewest = stopped == stopped.min()
            parts[-1] += f", the most of {len(certified)} certified detectors"
            parts.append(f"{_stop(certified, fewest)} the fewest, {int(stopped.min())}")
    if all_knowing:
        best = (
            f"{_stop(certified, knowing == knowing.max())} {int(knowing.max())}" if knowing.max() else "none stops any"
        )
        parts.append(f"of {all_knowing} cells with attackers who know the detector, {best}")
    return f"With {SCOPE_TEXT.get(scope, scope)}, {'; '.join(parts)}." if parts else ""


def _stop(table: pd.DataFrame, chosen: pd.Series) -> str:
    """Return the names of the chosen detectors with the verb."""
    return f"{_names(table, chosen)} {'stops' if int(chosen.sum()) == 1 else 'each stop'}"


def _names(table: pd.DataFrame, chosen: pd.Series) -> str:
    return listed([str(name) for name in table.loc[chosen, "detector"]])


def guarantee(run: Folder) -> str:
    """Return what is guaranteed of each certified detector."""
    workloads = bench_table(run, "workloads")
    of_certified = workloads[workloads["certified"].eq(True)]
    if of_certified.empty:
        return "No honest session is covered by a guarantee."
    confidence = float(calibration_section(run).get("confidence", 0.95))
    limits = sorted({float(value) for value in of_certified["limit"]})
    share = f"at most {limit(limits[0])}"
    if len(limits) > 1:
        share = f"at most {limit(limits[0])} to {limit(limits[-1])} (depending on the workload)"
    names = of_certified["workload"].nunique()
    return (
        f"Each certified detector has the same guarantee: with {100 * confidence:.4g}% confidence, it blocks {share} "
        f"of the sessions of {'the one named workload' if names == 1 else f'each of the {names} named workloads'}."
        f"{_confirmed(run, list(dict.fromkeys(of_certified['detector'].astype(str))))}"
    )


def _confirmed(run: Folder, detectors: list[str]) -> str:
    """Return what the live runs of the calibrations showed; empty if a calibration does not record it."""
    matched = differing = 0
    for name in detectors:
        folder = run / CALIBRATIONS / name
        found = (facts(folder).get("tuning") or {}) if (folder / "run.json").is_file() else {}
        if "confirmed_sessions" not in found:
            return ""
        matched += int(found["confirmed_sessions"])
        differing += int(found.get("differing_sessions", 0))
    text = confirmation({"confirmed_sessions": matched, "differing_sessions": differing})
    return f" Each ran live on the test split of its calibration. {text}."


def not_covered(run: Folder) -> str:
    """Return the warning: whom the guarantee does not cover, and what is known about them."""
    data = (facts(run).get("data") or {}).get("name")
    images = f"images of the same source ({data})" if data else "images of the same source"
    text = (
        f"The guarantee is for the named workloads and for {images} only. It does not cover other honest users, such "
        "as users with another camera, more noise, or another way to send images."
    )
    table = ranked(run)
    measured = []
    for name in table.loc[table["certified"], "detector"] if len(table) else ():
        found = left_out(run, str(name))
        if found is not None:
            measured.append(
                f"With each workload left out of the calibration of {name} in turn: {found[:1].lower()}{found[1:]}"
            )
    of_unseen = [row for row in table[table["certified"]].to_dict("records") if not missing(row["unseen_workload"])]
    unseen = [
        f"{row['detector']} blocks {percent(row['unseen_rate'])} of the sessions of {row['unseen_workload']}"
        for row in of_unseen
        if row["unseen_rate"] > 0
    ]
    if spared := [str(row["detector"]) for row in of_unseen if row["unseen_rate"] == 0]:
        unseen.append(f"{listed(spared)} {'blocks' if len(spared) == 1 else 'block'} none")
    if unseen:
        text += f" Of the users that no detector was calibrated for, {'; '.join(unseen)}."
    if measured:
        text += f" {' '.join(measured)}"
    if not unseen and not measured:
        text += " What they would suffer is not measured by this run (tuning.leave_out = true measures it)."
    return text


def left_out(run: Folder, detector: str) -> str | None:
    """Return what users of workloads suffer that were left out of a detector's calibration; None if not measured."""
    folder = run / CALIBRATIONS / detector
    table = leave_out_table(folder) if folder.is_dir() else None
    if table is None or table.empty:
        return None
    confidence = f"{100 * float(calibration_section(run).get('confidence', 0.95)):.4g}%"
    return warning(table, confidence)


def attackers(run: Folder) -> str:
    """Return the number of attackers of a cell, and what can be concluded if all of them are blocked."""
    numbers = sorted({int(number) for number in bench_table(run, "cells")["attackers"]})
    if not numbers:
        return "The run has no attackers."
    parts = []
    for number in dict.fromkeys((numbers[0], numbers[-1])):
        low, high = clopper_pearson(number, number)
        parts.append(f"{number} of {number} blocked: {percent(low)} to {percent(high)}")
    shown = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return (
        f"Each cell has {shown} {'attacker' if numbers == [1] else 'attackers'}. A cell counts as stopped only if all "
        "of them are blocked, which does not show that every such attacker would be (exact 95% interval of the share "
        f"blocked: {'; '.join(parts)})."
    )


def definitions(run: Folder) -> list[tuple[str, str]]:
    """Return the terms of the page with their definitions."""
    cells = bench_table(run, "cells")
    columns = ("leakage_without_queries", "leakage_labelled")
    values = [float(cells[name].iloc[0]) if len(cells) else math.nan for name in columns]
    known = [f"{value:.2f}" if value == value else "not measured by this run" for value in values]
    rule = (
        "All attackers of the cell are blocked for good, and what they have obtained by then is less than half of what "
        "they obtain undefended. This is measured by the evaluator’s mean confidence in the last reconstructions, in "
        "excess of a baseline. Leakage is ignored for attacks that exceed the baseline by less than 0.05 undefended"
    )
    if known[0].startswith("not"):
        rule += ". This run has no baseline, so only the blocks count"
    labelled = (
        "The same, measured from the best of three baselines. The third one is an auxiliary image that the model "
        f"labels as the target, which an attacker obtains without reconstructing anything (confidence {known[1]})."
    )
    if values[1] == values[1]:
        each = cells.drop_duplicates(["attack", "evasion"])
        above = int((each["leakage_undefended"] - each[list(columns)].max(axis=1) >= MIN_LEAKAGE).sum())
        if above < len(each):
            labelled += (
                f" Undefended, {above or 'none'} of {len(each)} cells {'exceeds' if above < 2 else 'exceed'} it by "
                f"{MIN_LEAKAGE:g}; in {'the others' if above else 'all of them'}, only the blocks count."
            )
    return [
        ("cell", "One attack with one row of evasions: the unit of the comparison."),
        (
            "stopped",
            f"{rule}. The baseline is the better one of two that need no query, auxiliary images and random images "
            f"(confidence {known[0]}).",
        ),
        ("stopped, labelled baseline", labelled),
        ("delayed", "Not stopped, and at least half of the attackers are blocked before half of the leakage."),
        ("lost", "Any other result: most attackers are not blocked, or at least half of the leakage is out."),
        (
            f"within {QUARTER:.0%} of the budget",
            "All attackers of the cell are blocked within this share of their query budget, whatever has leaked. The "
            "budget includes the queries that the evasions add.",
        ),
        (
            "mean queries",
            "Mean number of queries until the block, over attackers; one that is never blocked counts as its budget "
            "(restricted mean).",
        ),
        (
            "scope",
            "session: the detector’s state ends with the session. client: it is kept across the sessions of a client, "
            "and a blocked client stays blocked.",
        ),
        (
            "attackers who know the detector",
            "Attackers with evasions made against these detectors. They are counted separately.",
        ),
        (
            "worst workload",
            "The honest workload with the highest share of sessions blocked on the test split, whose sessions neither "
            "search nor certification used; exact 95% interval (Clopper–Pearson).",
        ),
    ]
