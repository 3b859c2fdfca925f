"""The verdict on each table and figure of the paper, with the numbers that support it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.paper.arithmetic import check_table_6
from reports.paper.attack_tables import max_iterations
from reports.paper.load import Results
from reports.paper.markdown import format_count
from reports.paper.published_tables import CONFIGS, HALVES, attacks, performance, users
from reports.paper.readings import family_rows, nearest_sweep_row, published_medians, reaches, reading_table
from reports.paper.sections import MATCHED_NOISES, reproduced_metrics
from reports.paper.user_tables import fit_table, protocol_name
from reports.wording import percent

REPRODUCED = "reproduced"
IN_KIND = "reproduced qualitatively"
NOT = "not reproducible as written"
NUMBERS = {
    "MNIST": {"attacks": "Table 2", "bars": "Figure 6", "users": "Table 4"},
    "CelebA": {"attacks": "Table 3", "bars": "Figure 7", "users": "Table 5"},
}


@dataclass(frozen=True)
class Finding:
    """One row of the summary.

    Attributes
    ----------
    item : str
        The table or figure.
    verdict : str
    evidence : str
        In Markdown.
    """

    item: str
    verdict: str
    evidence: str


def findings(results: Results) -> list[Finding]:
    """Return the verdicts on all tables and figures, in the paper's order."""
    rows = [
        Finding(
            "Table 1",
            REPRODUCED,
            "the configurations are inputs: "
            + ", ".join(f"L_sp {_l_sp(results, half)} ({half})" for half in results.halves),
        )
    ]
    rows += [attack_finding(results, half) for half in results.halves]
    rows += [user_finding(results, half) for half in results.halves]
    rows.append(metric_finding(results))
    rows.append(
        Finding(
            "Figure 5",
            f"{REPRODUCED} from the paper's tables; {NOT} from its text",
            "the matrices are sums of Tables 2 to 5; the reproduced ones differ where those tables do",
        )
    )
    rows += [bar_finding(results, half) for half in results.halves]
    return rows + [not_run(half) for half in HALVES if half not in results.halves]


def not_run(half: str) -> Finding:
    """Return the row for the tables and figures of a half that was not run."""
    flags = "--dataset celeba=DIR` or `--dataset faces" if half == "CelebA" else "--dataset mnist=DIR"
    numbers = NUMBERS[half]
    items = f"{numbers['attacks']}, {numbers['users']}, {numbers['bars']}"
    return Finding(items, "not run", f"the {half} half of this page needs `{flags}`")


def _l_sp(results: Results, half: str) -> int:
    table = results.configs
    return int(table.loc[(table["dataset"] == half) & (table["config"] == "config_1"), "l_sp"].iloc[0])


def attack_finding(results: Results, half: str) -> Finding:
    """Judge Table 2 or 3 by the sweep: the rows that any reading reaches, and the rows that one reading reaches."""
    readings = reading_table(results, half)
    written: Any = family_rows(readings).set_index("reading").loc["as written"]
    reached = [config for config in CONFIGS if written[config] is not None]
    reachable = [c for c in CONFIGS if any(reaches(row, c) for _, row in readings.iterrows())]
    most = max(sum(reaches(row, c) for c in CONFIGS) for _, row in readings.iterrows())
    if int(written["at_once"]) == len(CONFIGS):
        verdict = REPRODUCED
    elif len(reachable) == len(CONFIGS):
        verdict = f"{IN_KIND}, row by row; {NOT} as one table"
    else:
        verdict = NOT
    rows = ", ".join(f"configuration {c[-1]} at noise {_noises(written[c])}" for c in reached) or "no row"
    evidence = (
        f"text as written, any noise: reaches {rows} (within a factor of 2); any of {len(readings):,} readings: "
        f"reaches {len(reachable)} of 3 rows separately, but at most {most} of 3 with one reading"
    )
    return Finding(NUMBERS[half]["attacks"], verdict, evidence)


def _noises(span: tuple[float, float]) -> str:
    return f"{span[0]:g}" if span[0] == span[1] else f"{span[0]:g} to {span[1]:g}"


def user_finding(results: Results, half: str) -> Finding:
    """Judge Table 4 or 5 by the protocol as written and by the nearest protocol."""
    fits = fit_table(results, half)
    written = fits[(fits["protocol"] == "distinct") & (fits["images"] == 1)].iloc[0]
    best = fits.iloc[0]
    published = users(half)
    attempts = int(published["attempts"].sum())
    printed = [int(published[config].sum()) for config in CONFIGS]
    nearest = [float(best[f"expected_{config}"]) for config in CONFIGS]
    expected = [float(written[f"expected_{config}"]) for config in CONFIGS]
    evidence = (
        f"one image per session, as written: {_triple(expected)} of {attempts} flagged, while the paper reports "
        f"{_triple(printed)}; nearest protocol: {protocol_name(best)}, with {_triple(nearest)} expected"
    )
    verdict = NOT if max(expected) < min(count for count in printed if count) else REPRODUCED
    return Finding(NUMBERS[half]["users"], verdict, evidence)


def _triple(values: list[int] | list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def metric_finding(results: Results) -> Finding:
    """Judge Table 6 by its arithmetic."""
    cells = [cell for half in HALVES for cell in check_table_6(half)]
    wrong = [cell for cell in cells if not cell.agrees]
    details = "; ".join(
        f"{cell.half} {cell.metric}, {cell.column}: printed {cell.printed:.2f}, computed {cell.computed:.3f}"
        for cell in wrong
    )
    evidence = f"{len(cells) - len(wrong)} of {len(cells)} cells follow from Tables 2 to 5"
    if details:
        evidence += f" (not: {details})"
    evidence += "; recall is 100% because a trial ends only on detection"
    for half in results.halves:
        reproduced = reproduced_metrics(results, half)[MATCHED_NOISES].loc["accuracy", list(CONFIGS)]
        published = performance(half).loc["accuracy", list(CONFIGS)]
        evidence += (
            f"; {half} accuracy with a matched noise for each configuration and the nearest protocol: "
            f"{', '.join(f'{value:.1f}' for value in reproduced)} "
            f"(paper: {', '.join(f'{value:.1f}' for value in published)})"
        )
    return Finding("Table 6", f"arithmetic {REPRODUCED}; values {NOT}", evidence)


def bar_finding(results: Results, half: str) -> Finding:
    """Judge Figure 6 or 7 by how often configuration 3 detects first, and by the heights of the bars."""
    published = attacks(half)
    published_share = float((published["config_3"] < published[["config_1", "config_2"]].min(axis=1)).mean())
    reproduced = max_iterations(results, half, results.live_noise(half)).fillna(np.inf)
    share = float((reproduced["config_3"] < reproduced[["config_1", "config_2"]].min(axis=1)).mean())
    rows = []
    for config in CONFIGS:
        noise, row = nearest_sweep_row(results, half, config)
        median = float(row.fillna(np.inf).median())
        rows.append(f"configuration {config[-1]}: {format_count(median)} at noise {noise:g} "
                    f"(paper: {format_count(published_medians(half)[config])})")  # fmt: skip
    evidence = (
        f"configuration 3 detects first on {percent(share, brief=True)} of labels "
        f"(paper: {percent(published_share, brief=True)}); medians over labels at the nearest noise for each "
        "configuration: " + ", ".join(rows)
    )
    return Finding(NUMBERS[half]["bars"], IN_KIND if share >= 0.75 else NOT, evidence)
