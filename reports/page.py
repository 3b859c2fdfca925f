"""The report page of a run: one HTML file that works offline, made from the files of the run folder alone.

The same files give the same page, byte for byte.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from mifsim.cache import atomic_write
from mifsim.progress import duration
from mifsim.tables.storage import Folder
from reports import wording
from reports.charts import false_positive_chart, limits, pareto_chart, progress_charts, survival_charts
from reports.comparison import compare_attacks, compare_users, in_order, undefended
from reports.leakage_metrics import NEEDS, metrics
from reports.left_out import left_out_results
from reports.matrix import matrix_page
from reports.model_input import model_input, repeating
from reports.pictures import galleries
from reports.styles import CALIBRATED, styles
from reports.tables import (
    certification_table,
    facts,
    failures,
    filter_table,
    pareto_table,
    sessions,
)
from reports.verdict import calibration_section, filter_file, guarantee_text, headline, shortfalls, worst_users
from reports.zero_query import sentences, verdicts

_SHOWN_SEPARATELY = frozenset(
    {"chosen", "guarantee", "why_none", "test", "parameters", "kind", "leave_out", "compared"}
)
"""Facts of a calibration that other sections of the page show."""


def write_page(run: Folder) -> Folder:
    """Write ``report.html`` to a run folder.

    Parameters
    ----------
    run : Path or RemotePath
        Folder of a simulation or a calibration.

    Returns
    -------
    Path or RemotePath
        The page.

    Raises
    ------
    RunError
        If the folder is not a run folder, or a table is missing or damaged.
    """
    page = render(run)
    path = run / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(run: Folder) -> str:
    """Return the report page of a run folder as HTML; see `write_page`."""
    from plotly.offline import get_plotlyjs

    template = load_template("page.html.j2")
    return template.render(**_context(run), plotly=Markup(get_plotlyjs()))  # noqa: S704


def load_template(name: str) -> jinja2.Template:
    """Return a template of the pages, which escapes what it shows, with the filters for numbers."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "percent": wording.percent,
        "limit": wording.limit,
        "number": wording.number,
        "value": wording.value,
    }
    return templates.get_template(name)


def _context(run: Folder) -> dict[str, Any]:
    known = facts(run)
    rows = sessions(run)
    configs = {str(name): row for name, row in filter_table(run).iterrows()}
    unfiltered = undefended(run)
    filters = in_order(list(configs), unfiltered)
    look = styles(filters, unfiltered)
    pareto, certification, file = pareto_table(run), certification_table(run), filter_file(run)
    section, calibration = calibration_section(run), pareto is not None or "tuning" in known
    confidence = float(section.get("confidence", 0.95))
    chosen_rows = None if certification is None else certification[certification["chosen"].eq(True)]
    chosen = file["filter"] if file is not None else None
    if chosen is None and chosen_rows is not None and len(chosen_rows):
        first = chosen_rows.iloc[0]  # the run ended before the confirmation, which writes filter.toml
        chosen = {"kind": first["kind"], **json.loads(first["config"])}
    allowed = limits(certification)
    attacks = compare_attacks(run)
    matrix = matrix_page(run)
    return {
        "facts": known,
        "calibration": calibration,
        "chosen": chosen,
        "boxes": [] if chosen is None else _boxes(chosen, known),
        "headline": headline(run, calibration=calibration, chosen=chosen is not None),
        "guarantee": "" if chosen_rows is None or chosen_rows.empty else guarantee_text(chosen_rows, confidence),
        "confidence": confidence,
        "live": worst_users(run, CALIBRATED, allowed),
        "left_out": left_out_results(run),
        "shortfalls": []
        if chosen is not None or certification is None
        else shortfalls(certification, confidence, section.get("procedure", "fixed_sequence")),
        "why_none": (known.get("tuning") or {}).get("why_none") or "",
        "compared": (known.get("tuning") or {}).get("compared") or {},
        "matrix": matrix,
        "attacks": attacks,
        "metrics": metrics(run),
        "metrics_need": NEEDS,
        "metrics_verdicts": sentences(verdicts(run)),
        "tally": attacks.tally,
        "users": compare_users(run),
        "logs": known.get("logs") or {},
        "filters": [(name, look[name], wording.describe(configs[name])) for name in filters],
        "look": look,
        "undefended": unfiltered,
        "sessions": len(rows),
        "not_deterministic": wording.not_deterministic(known.get("victim") or {}),
        "doubtful_accuracy": wording.doubtful_accuracy(known.get("victim") or {}),
        "failed": failures(run).to_dict("records"),
        "pareto": pareto_chart(run, pareto, allowed, look),
        # A matrix has dozens of attacks: a chart and a gallery for each would make the page too long.
        "survival": survival_charts(rows, filters, look) if matrix is None else [],
        "false_positives": false_positive_chart(run, unfiltered, look, allowed),
        "model_input": model_input(run, known),
        "repeating": repeating(known),
        "galleries": galleries(run, filters, known) if matrix is None else [],
        "progress": progress_charts(run, rows, pareto, allowed, float(section.get("false_positive_budget", 0.1))),
        "tuning": _flat(
            {key: value for key, value in (known.get("tuning") or {}).items() if key not in _SHOWN_SEPARATELY}
        ),
        "command": _command(run, known, calibration=calibration),
        "environment": environment(known),
        "study": study_text(run),
        "filter_toml": _text(run / "filter.toml"),
        "description": description(run),
        "files": _files(run),
    }


def _boxes(chosen: Mapping[str, Any], known: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """Return name, value and description of each parameter of the chosen configuration."""
    meanings: Mapping[str, str] = (known.get("tuning") or {}).get("parameters") or {}
    return [(name, found, meanings.get(name, "")) for name, found in wording.parameters(chosen).items()]


def _command(run: Folder, known: Mapping[str, Any], *, calibration: bool) -> str:
    command = "tune" if calibration else "simulate"
    backend = f" --backend {known['backend']}" if known.get("backend", "ray") != "ray" else ""
    return f"mifsim {command} {run.name}/study.toml{backend}"


def environment(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what determines a run, as names and texts: seed, data, models, machine and versions."""
    victim, evaluator, machine = (known.get(name) or {} for name in ("victim", "evaluator", "machine"))
    data = known.get("data") or {}
    rows = [
        ("run", known.get("run_id")),
        ("seed", known.get("seed")),
        ("study", f"{known.get('study')} (fingerprint {known.get('study_fingerprint')})"),
        ("status", known.get("status")),
        ("started, finished", f"{known.get('started', '?')}, {known.get('finished', '?')}"),
        ("duration of the sessions", duration(known["simulation_seconds"]) if "simulation_seconds" in known else None),
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
    keys = [f"{key} = {found[key]}" for key in ("input", "labels", "output") if found.get(key, "softmax") != "softmax"]
    return ", ".join(filter(None, [found["model"], wording.accuracy(found), *keys]))


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested facts as a flat mapping of names to text."""
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


def _text(path: Folder) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def study_text(run: Folder) -> str:
    """Return the text of the study; empty if the run has none."""
    return _text(run / "study.toml")


def description(run: Folder) -> str:
    """Return the description in the study; empty if there is none."""
    try:
        return str(tomllib.loads(study_text(run)).get("description", ""))
    except tomllib.TOMLDecodeError:  # the page shows the file's text unparsed, and the tables do not depend on it
        return ""


def _files(run: Folder) -> list[str]:
    names = ("sessions", "queries", "snapshots", "leakage", "trials")
    files = (
        "model_input.png",
        "pareto.parquet",
        "certification.parquet",
        "leave_out.parquet",
        "filter.toml",
        "study.toml",
        "run.json",
    )
    return [f"{name}/*.parquet" for name in names if (run / name).is_dir()] + [
        name for name in files if (run / name).is_file()
    ]
