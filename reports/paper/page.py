"""The page: README.md with its figures and CSV files, from the Parquet tables of `mifsim paper`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from mifsim.cache import atomic_write
from reports.paper import figures_attacks, figures_beyond, figures_users, sections
from reports.paper.arithmetic import equal_counts_p_value, homogeneity_tests
from reports.paper.attack_tables import agreement, with_intervals
from reports.paper.drawing import title
from reports.paper.load import CALIBRATED, Results
from reports.paper.markdown import format_count
from reports.paper.published_tables import CONFIGS, FOLDER, attacks
from reports.paper.readings import AS_WRITTEN, REACH_FACTOR, VARIANT, published_medians, reaches, reading_table
from reports.paper.user_tables import fit_table, protocol_name
from reports.paper.verdicts import NUMBERS, findings
from reports.wording import percent

TABLES = {
    "iterations": sections.iterations_table,
    "intervals": sections.intervals_table,
    "readings": sections.readings_table,
    "users": sections.users_table,
    "protocols": sections.protocols_table,
    "performance": sections.performance_table,
    "workloads": sections.workloads_table,
}


def write_page(out: Path) -> Path:
    """Write ``README.md``, ``figures/`` and ``csv/`` into a folder that contains ``parquet/``.

    Raises
    ------
    RunError
        If a table is missing or damaged.
    """
    results = Results(out)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports.paper"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown, from tables of mifsim
        trim_blocks=True,
        lstrip_blocks=True,
    )
    markdown, frame = sections.configs_table(results)
    _csv(out, "configs", frame)
    text = environment.get_template("page.md.j2").render(
        findings=findings(results),
        configs=markdown,
        halves=[_half_context(results, half, out) for half in results.halves],
        factor=f"{REACH_FACTOR:g}",
        command=_command(results),
    )
    if (out / FOLDER.name).resolve() != FOLDER:
        shutil.copytree(FOLDER, out / FOLDER.name, dirs_exist_ok=True)
    page = out / "README.md"
    with atomic_write(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def _command(results: Results) -> str:
    """Return the arguments of `mifsim paper` that reproduce this page."""
    parts = []
    for half in results.halves:
        facts = results.facts(half)
        folder = "=DIR" if facts["dataset"] in ("mnist", "celeba") else ""
        parts.append(f"--dataset {facts['dataset']}{folder}")
    facts = results.facts(results.halves[0])
    if facts["small"] == "True":
        parts.append("--small")
    elif facts["trials a label"] != "30":
        parts.append(f"--trials {facts['trials a label']}")
    return " ".join([*parts, "--out reports/paper"])


def _csv(out: Path, name: str, frame: Any) -> str:
    folder = out / "csv"
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    return f"csv/{name}.csv"


def _half_context(results: Results, half: str, out: Path) -> dict[str, Any]:
    """Return the template's variables for one half."""
    tables, files = {}, {}
    for name, make in TABLES.items():
        tables[name], frame = make(results, half)
        files[name] = _csv(out, f"{name}-{half.lower()}", frame)
    live, matching = agreement(results, half)
    return {
        "name": half,
        "numbers": NUMBERS[half],
        "facts": results.facts(half),
        "accuracies": sections.accuracies(results.facts(half)),
        "rendered": "rendered" in results.facts(half)["data"],
        "private_shown": "private" in set(results.pictures.loc[results.pictures["dataset"] == half, "row"]),
        "classes": len(results.classes(half)),
        "chance": f"{1 / len(results.classes(half)):.2f}",
        "tables": tables,
        "files": files,
        "figures": _figures(results, half, out),
        "live": f"{live:,}",
        "live_matching": f"{matching:,}",
        "calibrated": CALIBRATED in results.config_names(half),
        "live_noise": f"{results.live_noise(half):g}",
        **_readings(results, half),
        **_users(results, half),
        **_beyond(results, half),
    }


def _figures(results: Results, half: str, out: Path) -> dict[str, str | None]:
    return {
        "iterations": figures_attacks.iterations(results, half, out),
        "noise_sweep": figures_attacks.noise_sweep(results, half, out),
        "survival": figures_attacks.survival(results, half, out),
        "confusions": figures_users.confusions(results, half, sections.reproduced_confusions(results, half), out),
        "protocols": figures_users.protocols(results, half, out),
        "curves_3": figures_beyond.curves(results, half, "config_3", out),
        "curves": figures_beyond.curves(results, half, CALIBRATED, out),
        "heat": figures_beyond.heat(results, half, out),
        "pictures": figures_beyond.pictures(results, half, out),
    }


def _readings(results: Results, half: str) -> dict[str, Any]:
    readings = reading_table(results, half)
    published = attacks(half)
    best = readings.sort_values("off", kind="stable").iloc[0]
    default_ssim = (readings["ssim"] == "global") & (readings["dynamic_range"] == 1)
    hash_ratio = _spread(readings[default_ssim & (readings["count_rule"] == "per_match")], "hash_size")
    rule_ratio = _spread(readings[default_ssim & (readings["hash_size"] == 8)], "count_rule")
    reachable = {c: any(reaches(row, c) for _, row in readings.iterrows()) for c in CONFIGS}
    at_once = max(sum(reaches(row, c) for c in CONFIGS) for _, row in readings.iterrows())
    return {
        "readings": f"{len(readings):,}",
        "medians": " · ".join(format_count(median) for median in published_medians(half).values()),
        "crossed": int((published["config_2"] < published["config_1"]).sum()),
        "equal_counts_p_value": f"{equal_counts_p_value(half):.2f}",
        "best": best.to_dict(),
        "best_medians": " · ".join(format_count(best[c]) for c in CONFIGS),
        "best_off": f"{best['off']:.1f}",
        "hash_ratio": f"{hash_ratio:.2f}",
        "rule_ratio": f"{rule_ratio:.2f}",
        "ratio": _ratio(readings),
        "reachable": [title(c) for c in CONFIGS if reachable[c]],
        "unreachable": [title(c) for c in CONFIGS if not reachable[c]],
        "at_once": at_once,
    }


def _ratio(readings: pd.DataFrame) -> str:
    """Return the queries of configuration 2 divided by those of configuration 1, without noise and as written."""
    written = readings[(readings[list(AS_WRITTEN)] == pd.Series(AS_WRITTEN)).all(axis=1)]
    noiseless = written[written["noise"] == written["noise"].min()].iloc[0]
    return f"{noiseless['config_2'] / noiseless['config_1']:.1f}" if np.isfinite(noiseless["config_2"]) else "many"


def _spread(readings: pd.DataFrame, column: str) -> float:
    """Return the largest factor by which a median differs between readings that differ only in one column."""
    others = [name for name in VARIANT if name != column]
    largest = 1.0
    for config in CONFIGS:
        finite = readings[np.isfinite(readings[config])].groupby(others)[config]
        largest = max(largest, float((finite.max() / finite.min()).max()) if len(finite) else 1.0)
    return largest


def _users(results: Results, half: str) -> dict[str, Any]:
    homogeneity, fits = homogeneity_tests(half), fit_table(results, half)
    return {
        "false_total": homogeneity.total,
        "false_attempts": homogeneity.attempts,
        "false_rate": percent(homogeneity.total / homogeneity.attempts, brief=True),
        "labels_p": f"{homogeneity.labels_p:.2f}",
        "configs_p": f"{homogeneity.configs_p:.2f}",
        "nearest_protocol": protocol_name(fits.iloc[0]),
        "distinct_flagged": sum(
            float(
                fits.loc[(fits["protocol"] == "distinct") | (fits["protocol"] == "carried over"), f"expected_{c}"].sum()
            )
            for c in CONFIGS
        ),
    }


def _beyond(results: Results, half: str) -> dict[str, Any]:
    table = with_intervals(results, half)
    worst = table.groupby("config")["mean"].max()
    pictures = results.pictures[results.pictures["dataset"] == half].groupby("row")
    confidence = pictures["evaluator_confidence"].mean()
    return {
        "worst": {config: format_count(float(mean)) for config, mean in worst.items()},
        "confidence": {row: f"{value:.2f}" for row, value in confidence.items() if value == value},
    }
