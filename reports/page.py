"""The page of a run: one HTML file that opens offline, built from the run folder and nothing else.

The same files give the same page, byte for byte.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from mifsim.cache import whole_file
from mifsim.progress import duration
from reports import wording
from reports.comparison import compare_attacks, compare_users, in_order, undefended
from reports.figures import Figure, false_positive_figure, frontier_figure, progress_figure, survival_figure
from reports.pictures import galleries
from reports.search_progress import search_progress
from reports.styles import CALIBRATED, Style, styles
from reports.tables import (
    attackers,
    certification_table,
    facts,
    failures,
    filter_table,
    frontier_table,
    sessions,
    survival_of,
    trial_table,
    user_table,
)
from reports.verdict import calibration_section, filter_file, headline, promise, shortfalls, worst_users

_ELSEWHERE = frozenset({"chosen", "guarantee", "why_none", "test"})
"""Facts of a calibration that the page tells in another place."""


@dataclass(frozen=True)
class Chart:
    """A figure on the page.

    Attributes
    ----------
    name : str
        Unique on the page.
    title : str
    figure : dict
        See `reports.figures`.
    note : str
        What the reader could not see in it.
    """

    name: str
    title: str
    figure: Figure
    note: str = ""

    @property
    def json(self) -> Markup:
        """The figure for a script element: nothing in it can end that element."""
        text = json.dumps(self.figure, allow_nan=False, separators=(",", ":"))
        return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.figure["layout"]["height"])


def write_page(run: Path) -> Path:
    """Build ``report.html`` of a run folder.

    Parameters
    ----------
    run : Path
        Of a calibration, or of a plain simulation; only its files are read.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    RunError
        Where it is no run folder, or a table is missing or not whole.
    """
    page = render(run)
    path = run / "report.html"
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(run: Path) -> str:
    """Return the page of a run folder as HTML."""
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": wording.percent,
        "limit": wording.limit,
        "number": wording.number,
        "setting": wording.setting,
    }
    template = environment.get_template("page.html.j2")
    return template.render(**_context(run), plotly=Markup(get_plotlyjs()))  # noqa: S704


def _context(run: Path) -> dict[str, Any]:
    known = facts(run)
    rows = sessions(run)
    settings = {str(name): row for name, row in filter_table(run).iterrows()}
    unfiltered = undefended(run)
    filters = in_order(list(settings), unfiltered)
    look = styles(filters, unfiltered)
    frontier, certification, file = frontier_table(run), certification_table(run), filter_file(run)
    section, calibration = calibration_section(run), frontier is not None or "tuning" in known
    confidence = float(section.get("confidence", 0.95))
    picked = None if certification is None else certification[certification["chosen"].eq(True)]
    chosen = file["filter"] if file is not None else None
    if chosen is None and picked is not None and len(picked):
        chosen = picked.iloc[0].to_dict()  # the run ended before it was confirmed
    limits = _limits(certification)
    attacks = compare_attacks(run)
    return {
        "facts": known,
        "calibration": calibration,
        "chosen": chosen,
        "headline": headline(run, calibration=calibration, chosen=chosen is not None),
        "promise": "" if picked is None or picked.empty else promise(picked, confidence),
        "confidence": confidence,
        "live": worst_users(run, CALIBRATED, limits),
        "shortfalls": []
        if chosen is not None or certification is None
        else shortfalls(certification, confidence, section.get("procedure", "fixed_sequence")),
        "why_none": (known.get("tuning") or {}).get("why_none") or "",
        "attacks": attacks,
        "tally": attacks.tally,
        "users": compare_users(run),
        "filters": [(name, look[name], wording.setting(settings[name])) for name in filters],
        "look": look,
        "undefended": unfiltered,
        "sessions": len(rows),
        "failed": failures(run).to_dict("records"),
        "frontier": _frontier_chart(run, frontier, limits, look),
        "survival": _survival_charts(rows, filters, look),
        "false_positives": _false_positive_chart(run, unfiltered, look, limits),
        "galleries": galleries(run, filters, known),
        "progress": _progress_charts(run, rows, frontier, limits, float(section.get("false_positive_budget", 0.1))),
        "tuning": _flat({key: value for key, value in (known.get("tuning") or {}).items() if key not in _ELSEWHERE}),
        "command": _command(run, known, calibration=calibration),
        "environment": _environment(known),
        "study": _text(run / "study.toml"),
        "filter_toml": _text(run / "filter.toml"),
        "description": _description(run),
        "files": _files(run),
    }


def _frontier_chart(
    run: Path, frontier: pd.DataFrame | None, limits: Mapping[str, float], look: Mapping[str, Style]
) -> Chart | None:
    if frontier is None or frontier.empty:
        return None
    figure = frontier_figure(frontier, trial_table(run), max(limits.values(), default=None), look)
    return Chart("frontier", "Detection speed against false positives", figure)


def _survival_charts(rows: pd.DataFrame, filters: Sequence[str], look: Mapping[str, Style]) -> list[Chart]:
    attacks = attackers(rows)
    charts = []
    for place, attack in enumerate(attacks["population"].unique()):
        of_attack = attacks[attacks["population"] == attack]
        groups = {name: of_attack[of_attack["filter"] == name] for name in filters}
        curves = {name: survival_of(group) for name, group in groups.items() if len(group)}
        figure = survival_figure(curves, look, int(of_attack["budget_queries"].max()))
        never = [name for name, group in groups.items() if len(group) and not group["outcome"].eq("blocked").any()]
        note = f"Never blocked: {wording.listed(never)}." if never else ""
        charts.append(Chart(f"survival-{place}", str(attack), figure, note))
    return charts


def _false_positive_chart(
    run: Path, unfiltered: Sequence[str], look: Mapping[str, Style], limits: Mapping[str, float]
) -> Chart | None:
    users = user_table(run)
    if users.empty:
        return None
    users = users[~users["filter"].isin(unfiltered)].sort_values(
        "filter", key=lambda names: names.ne(CALIBRATED), kind="stable"
    )
    if users.empty:
        return None
    return Chart("false-positives", "Honest sessions blocked", false_positive_figure(users, look, limits))


def _progress_charts(
    run: Path, rows: pd.DataFrame, frontier: pd.DataFrame | None, limits: Mapping[str, float], region: float
) -> list[Chart]:
    trials = trial_table(run)
    if trials is None or trials.empty:
        return []
    budget = float(rows.loc[rows["role"] == "attacker", "budget_queries"].max())
    progress = search_progress(trials, frontier, budget=budget, limit=min(limits.values(), default=None), region=region)
    steps = [float(number) for number in range(1, len(trials) + 1)]
    best = progress_figure(steps, progress.best, "queries to block", share=False)
    volumes, of = (progress.hypervolume, "the region") if progress.found is None else (progress.found, "the exact one")
    volume = progress_figure(steps, volumes, "hypervolume", share=True)
    return [
        Chart("best", "Best setting within the limit so far", best),
        Chart("hypervolume", f"Hypervolume found, as a share of {of}", volume),
    ]


def _limits(certification: pd.DataFrame | None) -> dict[str, float]:
    if certification is None:
        return {}
    pairs = certification.drop_duplicates("workload")
    return {str(name): float(limit) for name, limit in zip(pairs["workload"], pairs["limit"], strict=True)}


def _command(run: Path, known: Mapping[str, Any], *, calibration: bool) -> str:
    command = "tune" if calibration else "simulate"
    backend = f" --backend {known['backend']}" if known.get("backend", "ray") != "ray" else ""
    return f"mifsim {command} {run.name}/study.toml{backend}"


def _environment(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    victim, evaluator, machine = (known.get(name) or {} for name in ("victim", "evaluator", "machine"))
    data = known.get("data") or {}
    rows = [
        ("run", known.get("run_id")),
        ("seed", known.get("seed")),
        ("study", f"{known.get('study')} ({known.get('study_fingerprint')})"),
        ("status", known.get("status")),
        ("started, finished", f"{known.get('started', '?')}, {known.get('finished', '?')}"),
        ("sessions ran for", duration(known["simulation_seconds"]) if "simulation_seconds" in known else None),
        ("data", f"{data['name']}: {data.get('note', '')}" if "name" in data else None),
        ("victim", _model(victim)),
        ("evaluator", _model(evaluator)),
        ("machine", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in known.get("versions", {}).items())),
        ("git revision", known.get("git_revision")),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _model(found: Mapping[str, Any]) -> str:
    if "model" not in found:
        return ""
    accuracy = f", test accuracy {found['test_accuracy']:.2%}" if "test_accuracy" in found else ""
    return f"{found['model']}{accuracy}"


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested facts as a flat list of name and text."""
    flat: dict[str, str] = {}
    for key, value in table.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}: ")
        elif isinstance(value, float):
            flat[name] = wording.number(value)
        else:
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _description(run: Path) -> str:
    try:
        return str(tomllib.loads(_text(run / "study.toml")).get("description", ""))
    except tomllib.TOMLDecodeError:  # shown as it is further down; the tables do not depend on it
        return ""


def _files(run: Path) -> list[str]:
    names = ("sessions", "queries", "snapshots", "leakage", "traces", "trials")
    files = ("frontier.parquet", "certification.parquet", "filter.toml", "study.toml", "run.json")
    return [f"{name}/*.parquet" for name in names if (run / name).is_dir()] + [
        name for name in files if (run / name).is_file()
    ]
