"""The page of a comparison of detectors: one HTML file without scripts, made from the files of the run folder alone.

It uses no charts, so that it is small enough to be kept beside the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mifsim.cache import atomic_write
from mifsim.tables.storage import Folder
from reports import bench_text
from reports.bench import CALIBRATIONS, MEASURES, ablations, bench_table, scopes
from reports.bench_matrix import Matrix, NotStopped, matrices, not_stopped
from reports.model_input import model_input
from reports.page import description, environment, load_template, study_text
from reports.tables import facts
from reports.wording import ABSENT, doubtful_accuracy, limit, missing, parameters, percent, queries, value


@dataclass(frozen=True)
class Counts:
    """What a detector stops in one scope, by one group of attackers.

    Attributes
    ----------
    cells, stopped, labelled, quarter : int
        Number of cells, and of those stopped, stopped by the labelled baseline, and blocked within a quarter of the
        budget.
    queries : str
        Mean queries to block; with ``>`` if some attackers were never blocked.
    lost_attacks : str
        Names of the attacks of which no cell is stopped.
    """

    cells: int
    stopped: int
    labelled: int
    quarter: int
    queries: str
    lost_attacks: str

    @property
    def share(self) -> float:
        """Share of the cells that are stopped, in percent."""
        return 100 * self.stopped / self.cells if self.cells else 0.0


@dataclass(frozen=True)
class DetectorRow:
    """One detector, formatted.

    Attributes
    ----------
    name, kind, config : str
    status : {"certified", "not certified", "no configuration"}
    note : str
        Number of images behind the certification, or the reason why there is none.
    counts : tuple of Counts
        For each scope, against attackers who do not know the detector and those who do; empty without a configuration.
    worst, interval : str
        The worst workload on the test split, and its exact interval.
    unseen : str
        The worst users for whom no detector is calibrated; empty if there are none.
    microseconds, size : str
        Processor time and bytes of state of a query.
    """

    name: str
    kind: str
    config: str
    status: str
    note: str
    counts: tuple[Counts, ...]
    worst: str
    interval: str
    unseen: str
    microseconds: str
    size: str


@dataclass(frozen=True)
class WorkloadRow:
    """Sessions of one workload that each detector blocks.

    Attributes
    ----------
    name, limit, images : str
        The workload, its false-positive limit, and the number of different images behind the certification.
    cells : tuple of (str, str, str, bool) or None
        For each detector: blocked sessions in the calibration and the test split, the interval on the test split, and
        whether its share there is above the limit; None if it was not evaluated.
    """

    name: str
    limit: str
    images: str
    cells: tuple[tuple[str, str, str, bool] | None, ...]


def write_bench_page(run: Folder) -> Folder:
    """Write ``report.html`` to the run folder of a comparison, and return its path.

    Raises
    ------
    RunError
        If the folder is not that of a comparison, or a table is missing or damaged.
    """
    page = render_bench(run)
    path = run / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render_bench(run: Folder) -> str:
    """Return the page of a comparison as HTML; see `write_bench_page`."""
    return render_context(bench_context(run))


def render_context(context: Mapping[str, Any]) -> str:
    """Return the page as HTML, from the variables of `bench_context`."""
    return load_template("bench.html.j2").render(**context)


def bench_context(run: Folder) -> dict[str, Any]:
    """Return the variables of the templates of the page and of the summary in Markdown."""
    known, rows = facts(run), detector_rows(run)
    shown: list[Matrix] = matrices(run, [row.name for row in rows])
    unstopped: list[NotStopped] = not_stopped(run, [row.name for row in rows if row.status == "certified"])
    return {
        "facts": known,
        "headline": bench_text.headline(run),
        "guarantee": bench_text.guarantee(run),
        "warning": bench_text.not_covered(run),
        "doubtful_accuracy": doubtful_accuracy(known.get("victim") or {}),
        "attackers": bench_text.attackers(run),
        "definitions": bench_text.definitions(run),
        "scopes": bench_text.ordered_scopes(run),
        "scope_text": bench_text.SCOPE_TEXT,
        "detectors": rows,
        "certified": [row.name for row in rows if row.status == "certified"],
        "matrices": shown,
        "not_stopped": unstopped,
        "workloads": workload_rows(run, [row.name for row in rows]),
        "unseen": unseen_rows(run, [row.name for row in rows]),
        "ablations": ablations(run).to_dict("records"),
        "evaluated": [row.name for row in rows if row.counts],
        "left_out": {row.name: found for row in rows if (found := bench_text.left_out(run, row.name))},
        "model_input": model_input(run, known),
        "environment": environment(known),
        "study": study_text(run),
        "description": description(run),
        "command": f"mifsim bench {run.name}/study.toml"
        + (f" --backend {known['backend']}" if known.get("backend", "ray") != "ray" else ""),
    }


def detector_rows(run: Folder) -> list[DetectorRow]:
    """Return the rows of the table of detectors, in the order of `reports.bench_text.ranked`."""
    table, cells = bench_text.ranked(run), bench_table(run, "cells")
    return [_detector_row(run, row, cells[cells["detector"] == row["detector"]]) for row in table.to_dict("records")]


def _detector_row(run: Folder, row: Mapping[Any, Any], cells: pd.DataFrame) -> DetectorRow:
    name = str(row["detector"])
    if missing(row["kind"]):
        reason = _reason(run, name)
        return DetectorRow(name, "", "", "no configuration", reason, (), ABSENT, "", "", ABSENT, ABSENT)
    unseen = "" if missing(row["unseen_workload"]) else _blocked(row, "unseen")
    worst, interval = ABSENT, ""
    if not missing(row["worst_workload"]):
        worst = _blocked(row, "worst")
        interval = f"{percent(row['worst_low'])} to {percent(row['worst_high'])}"
    if row["certified"]:
        status, note = "certified", ""
        if not missing(row["distinct_images"]):
            note = f"on {int(row['distinct_images']):,} different images"
    else:
        status, note = "not certified", "a configuration of the study, used as it is"
    counts = []
    for scope in bench_text.ordered_scopes(run):
        for knows, suffix in ((False, scope), (True, f"knowing_{scope}")):
            of_group = cells[(cells["scope"] == scope) & (cells["knows_detector"] == knows)]
            counts.append(_counts(row, suffix, of_group))
    config = ", ".join(f"{key} {value(found)}" for key, found in parameters(str(row["configuration"])).items())
    return DetectorRow(
        name, str(row["kind"]), config, status, note, tuple(counts), worst, interval, unseen,
        ABSENT if missing(row["microseconds_a_query"]) else f"{row['microseconds_a_query']:.1f}",
        ABSENT if missing(row["bytes_a_query"]) else f"{row['bytes_a_query']:,.0f}",
    )  # fmt: skip


def _blocked(row: Mapping[Any, Any], users: str) -> str:
    blocked, of = int(row[f"{users}_blocked"]), int(row[f"{users}_sessions"])
    return f"{percent(row[f'{users}_rate'])}: {blocked:,} of {of:,} of {row[f'{users}_workload']}"


def _counts(row: Mapping[Any, Any], suffix: str, cells: pd.DataFrame) -> Counts:
    stopped_cells, labelled, quarter = (int(row[f"{measure}_{suffix}"]) for measure in MEASURES)
    # Attackers of one attack can be several populations, such as mi-face+decoys.
    attack = cells["attack"].astype(str).str.partition("+")[0] if len(cells) else pd.Series(dtype=str)
    stopped = cells.groupby(attack, sort=False)["stopped"].any()
    lost = [str(name) for name, any_stopped in stopped.items() if not any_stopped]
    return Counts(
        int(row[f"cells_stopped_{suffix}"]),
        stopped_cells,
        labelled,
        quarter,
        queries(row[f"mean_queries_{suffix}"], at_least=bool((cells["blocked"] < cells["attackers"]).any())),
        "all attacks" if lost and len(lost) == len(stopped) else ", ".join(lost),
    )


def _reason(run: Folder, detector: str) -> str:
    """Return why a calibration certified no configuration."""
    folder = run / CALIBRATIONS / detector
    found = (facts(folder).get("tuning") or {}).get("why_none") if (folder / "run.json").is_file() else None
    return str(found or "the run does not record why")


def workload_rows(run: Folder, detectors: list[str]) -> list[WorkloadRow]:
    """Return, for each workload, what each of the detectors blocks of its sessions; a scope does not change this."""
    table, evaluated = _one_scope(run, detectors)
    table = table[table["split"] != "unseen"]
    rows = []
    for name in dict.fromkeys(table["workload"].astype(str)):
        of_workload = table[table["workload"] == name]
        first = of_workload.iloc[0]
        cells = tuple(_workload_cell(of_workload[of_workload["detector"] == detector]) for detector in evaluated)
        rows.append(WorkloadRow(name, limit(float(first["limit"])), f"{int(first['distinct_images']):,}", cells))
    return rows


def unseen_rows(run: Folder, detectors: list[str]) -> list[tuple[str, list[str]]]:
    """Return, for the users of ``[[bench.unseen]]``, how many of their sessions each of the detectors blocks."""
    table, evaluated = _one_scope(run, detectors)
    table = table[table["split"] == "unseen"]
    rows = []
    for name in dict.fromkeys(table["workload"].astype(str)):
        of_users = {str(row["detector"]): row for row in table[table["workload"] == name].to_dict("records")}
        found = [of_users[detector] for detector in evaluated]
        rows.append((name, [f"{int(row['blocked']):,} of {int(row['sessions']):,}" for row in found]))
    return rows


def _one_scope(run: Folder, detectors: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the table ``workloads`` for one scope, on which it does not depend, and the detectors in it."""
    table = bench_table(run, "workloads")
    table = table[table["scope"] == scopes(run)[0]]
    return table, [name for name in detectors if (table["detector"] == name).any()]


def _workload_cell(rows: pd.DataFrame) -> tuple[str, str, str, bool] | None:
    of_split = {str(row["split"]): row for row in rows.to_dict("records")}
    if not of_split:
        return None
    texts = {
        split: f"{int(row['blocked']):,} of {int(row['sessions']):,}" if row is not None else ABSENT
        for split, row in ((name, of_split.get(name)) for name in ("calibration", "test"))
    }
    test = of_split.get("test")
    if test is None:
        return texts["calibration"], texts["test"], "", False
    above = bool(test["blocked"] > test["limit"] * test["sessions"])
    return texts["calibration"], texts["test"], f"{percent(test['low'])} to {percent(test['high'])}", above
