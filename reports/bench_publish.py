"""Publication of a comparison of detectors: its tables, its page, and a summary in Markdown with a chart.

Only these files are published. None of them contains an image of the data set or a reconstruction: the page is without
the images that the model receives.
"""

from __future__ import annotations

import html
import shutil
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mifsim.cache import atomic_write
from mifsim.errors import UserError
from mifsim.tables.storage import Folder
from reports.bench_page import DetectorRow, bench_context, render_context
from reports.paper.drawing import GREY, INK, sheet
from reports.paper.markdown import table
from reports.styles import CHOSEN

TABLES = ("cells", "workloads", "detectors", "ablations")
"""The tables that are published."""
CHART = "stopped.png"
_OTHERS = "#d55e00"
"""Colour of the attackers who know the detector; Okabe and Ito's vermilion."""


def publish(run: Folder, out: Path) -> Path:
    """Copy a comparison's tables and page to a folder, and write ``README.md`` and a chart beside them.

    Parameters
    ----------
    run : Path or RemotePath
        The run folder of a complete comparison.
    out : Path
        The folder, which is created if necessary. Other files in it stay.

    Returns
    -------
    Path
        The summary, ``README.md``.

    Raises
    ------
    RunError
        If the run folder is not that of a comparison, or a table is missing or damaged.
    UserError
        If `out` is the run folder, or is not a folder.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--publish {out}: is a file (accepted: a folder, which is created if it does not exist)")
    if isinstance(run, Path) and out.resolve() == run.resolve():
        raise UserError(f"--publish {out}: is the run folder (accepted: another folder)")
    context = {**bench_context(run), "model_input": None}
    out.mkdir(parents=True, exist_ok=True)
    for source in (run / f"{name}.parquet" for name in TABLES):
        with atomic_write(out / source.name) as temporary, temporary.open("wb") as target, source.open("rb") as file:
            shutil.copyfileobj(file, target)
    draw(context["detectors"], context["scopes"], out / CHART)
    with atomic_write(out / "report.html") as temporary:
        temporary.write_text(render_context(context), encoding="utf-8")
    summary = out / "README.md"
    with atomic_write(summary) as temporary:
        temporary.write_text(markdown(context, out), encoding="utf-8")
    return summary


def markdown(context: dict[str, Any], out: Path) -> str:
    """Return the summary as Markdown, from the variables of `reports.bench_page.bench_context`."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown; the filter `plain` escapes names
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["plain"] = plain
    # An absolute path says something about this machine, and nothing to the reader.
    shown = out.name if out.is_absolute() else out.as_posix()
    return templates.get_template("bench.md.j2").render(
        **context,
        detector_table=_detector_table(context),
        workload_table=_workload_table(context),
        unseen_table=_unseen_table(context),
        ablation_table=_ablation_table(context),
        chart=CHART,
        out=shown,
    )


def plain(text: object) -> str:
    r"""Escape a text for Markdown, so that it is shown as it is, also in a table.

    Examples
    --------
    >>> plain("a|b <i> *c* d_e")
    'a\\|b &lt;i&gt; \\*c\\* d\\_e'
    """
    shown = html.escape(str(text), quote=False)
    for mark in "\\`*_[]|":
        shown = shown.replace(mark, f"\\{mark}")
    return shown


def _detector_table(context: dict[str, Any]) -> str:
    scopes = context["scopes"]
    head = ["detector", "certified"]
    for scope in scopes:
        head += [f"stopped, scope {scope}", f"labelled baseline ({scope})", f"within 25% of the budget ({scope})"]
        head += [f"stopped if they know it ({scope})"]
    head += ["worst workload, test split", "95% interval", "worst users not calibrated for", "µs a query"]
    head += ["bytes a query"]
    return table(head, [_cells(row, len(scopes)) for row in context["detectors"]])


def _cells(row: DetectorRow, scopes: int) -> list[str]:
    if not row.counts:
        return [plain(row.name), "no configuration", *["–"] * (4 * scopes + 5)]
    cells = [plain(row.name), "yes" if row.status == "certified" else "no"]
    for number in range(scopes):
        unaware, knowing = row.counts[2 * number : 2 * number + 2]
        cells += [f"**{unaware.stopped}** of {unaware.cells}", str(unaware.labelled), str(unaware.quarter)]
        cells += [f"{knowing.stopped} of {knowing.cells}"]
    return [
        *cells,
        plain(row.worst),
        row.interval or "–",
        plain(row.unseen or "not measured"),
        row.microseconds,
        row.size,
    ]


def _workload_table(context: dict[str, Any]) -> str:
    head = ["workload", "limit", "images", *(plain(name) for name in context["evaluated"])]
    rows = [
        [plain(row.name), row.limit, row.images, *("–" if cell is None else cell[1] for cell in row.cells)]
        for row in context["workloads"]
    ]
    return table(head, rows)


def _unseen_table(context: dict[str, Any]) -> str:
    head = ["users", *(plain(name) for name in context["evaluated"])]
    return table(head, [[plain(name), *cells] for name, cells in context["unseen"]])


def _ablation_table(context: dict[str, Any]) -> str:
    head = ["detector", "without", "attackers", "cells", "stopped by the whole detector", "stopped without the part"]
    rows = [
        [plain(row["detector"]), plain(row["without"]), "know it" if row["knows_detector"] else "do not know it",
         str(row["cells"]), str(row["stopped"]), str(row["stopped_without"])]
        for row in context["ablations"]
    ]  # fmt: skip
    return table(head, rows)


def draw(detectors: list[DetectorRow], scopes: list[str], path: Path) -> None:
    """Draw the cells that each detector stops, one panel for each scope, as PNG."""
    shown = [row for row in detectors if row.counts]
    figure, axes = sheet(len(scopes), width=9.6, height=1.2 + 0.42 * max(1, len(shown)), sharey=True)
    places = np.arange(len(shown))
    for number, (axis, scope) in enumerate(zip(axes[0], scopes, strict=True)):
        for offset, part, colour, hatch, label in (
            (-0.19, 2 * number, CHOSEN.colour, "", "do not know it"),
            (0.19, 2 * number + 1, _OTHERS, "///", "know it"),
        ):
            shares = [row.counts[part].share for row in shown]
            bars = axis.barh(
                places + offset, shares, 0.36, color=colour, hatch=hatch, edgecolor="white", label=f"attackers {label}"
            )
            texts = [f"{row.counts[part].stopped} of {row.counts[part].cells}" for row in shown]
            axis.bar_label(bars, texts, padding=3, fontsize=7, color=INK)
        axis.set_title(f"scope {scope}", fontsize=9, color=INK, loc="left")
        axis.set_xlim(0, 118)
        axis.set_xticks([0, 25, 50, 75, 100])
        axis.set_xlabel("cells stopped (%)", fontsize=8, color=INK)
        axis.grid(axis="x", color="#d9dde3", linewidth=0.6)
        axis.grid(axis="y", visible=False)
    names = [f"{row.name}{'' if row.status == 'certified' else ' (not certified)'}" for row in shown]
    axes[0][0].set_yticks(places, [name.replace("$", r"\$") for name in names])
    axes[0][0].invert_yaxis()
    figure.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside upper right",
        ncols=2,
        fontsize=8,
        frameon=False,
        labelcolor=GREY,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white", metadata={"Software": None})
