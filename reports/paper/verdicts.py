"""What holds: one verdict a table and figure, each with the numbers that it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.paper.arithmetic import check
from reports.paper.attack_tables import paper_way
from reports.paper.load import Results
from reports.paper.markdown import whole
from reports.paper.published_tables import CONFIGS, HALVES, attacks, performance, users
from reports.paper.readings import family_rows, ladder_row, published_medians, reaches, reading_table
from reports.paper.sections import OWN_NOISES, our_metrics
from reports.paper.user_tables import fit_table, protocol_name
from reports.wording import percent

REPRODUCED = "reproduced"
IN_KIND = "reproduced in kind"
NOT = "not reproducible as written"
NUMBERS = {
    "MNIST": {"attacks": "Table 2", "bars": "Figure 6", "users": "Table 4"},
    "CelebA": {"attacks": "Table 3", "bars": "Figure 7", "users": "Table 5"},
}


@dataclass(frozen=True)
class Finding:
    """One line of the summary.

    Attributes
    ----------
    item : str
        Which table or figure.
    verdict : str
    evidence : str
        Markdown.
    """

    item: str
    verdict: str
    evidence: str


def findings(results: Results) -> list[Finding]:
    """Return the verdict for every table and figure of the halves that were run, in the paper's order."""
    found = [
        Finding(
            "Table 1",
            REPRODUCED,
            "the configurations are input: "
            + ", ".join(f"L_sp {_l_sp(results, half)} ({half})" for half in results.halves),
        )
    ]
    found += [attack_finding(results, half) for half in results.halves]
    found += [user_finding(results, half) for half in results.halves]
    found.append(metric_finding(results))
    found.append(
        Finding(
            "Figure 5",
            f"{REPRODUCED} from the paper's tables; {NOT} from its text",
            "the matrices are the sums of Tables 2 to 5, and differ here where those tables do",
        )
    )
    found += [bar_finding(results, half) for half in results.halves]
    return found + [not_run(half) for half in HALVES if half not in results.halves]


def not_run(half: str) -> Finding:
    """Say which tables and figures are missing where a half was not run."""
    flags = "--dataset celeba --data DIR` or `--dataset faces" if half == "CelebA" else "--dataset mnist --data DIR"
    numbers = NUMBERS[half]
    items = f"{numbers['attacks']}, {numbers['users']}, {numbers['bars']}"
    return Finding(items, "not run", f"the {half} half of this page takes `{flags}`")


def _l_sp(results: Results, half: str) -> int:
    table = results.configs
    return int(table.loc[(table["dataset"] == half) & (table["config"] == "config_1"), "l_sp"].iloc[0])


def attack_finding(results: Results, half: str) -> Finding:
    """Judge Table 2 or 3 by the sweep: rows that some reading reaches, and rows that one reaches at once."""
    readings = reading_table(results, half)
    plain: Any = family_rows(readings).set_index("reading").loc["as written"]
    reached = [config for config in CONFIGS if plain[config] is not None]
    somewhere = [c for c in CONFIGS if any(reaches(row, c) for _, row in readings.iterrows())]
    most = max(sum(reaches(row, c) for c in CONFIGS) for _, row in readings.iterrows())
    if int(plain["at_once"]) == len(CONFIGS):
        verdict = REPRODUCED
    elif len(somewhere) == len(CONFIGS):
        verdict = f"{IN_KIND}, row by row; {NOT} as one table"
    else:
        verdict = NOT
    rows = ", ".join(f"configuration {c[-1]} at {_noises(plain[c])}" for c in reached) or "no row"
    evidence = (
        f"as written, noise alone reaches {rows} (within a factor of 2); any reading swept: "
        f"{len(somewhere)} of 3 rows each by itself, at most {most} of 3 at once ({len(readings):,} readings)"
    )
    return Finding(NUMBERS[half]["attacks"], verdict, evidence)


def _noises(span: tuple[float, float]) -> str:
    return f"{span[0]:g}" if span[0] == span[1] else f"{span[0]:g} to {span[1]:g}"


def user_finding(results: Results, half: str) -> Finding:
    """Judge Table 4 or 5: what the protocol as written gives, and which one comes nearest."""
    fits = fit_table(results, half)
    written = fits[(fits["protocol"] == "distinct") & (fits["images"] == 1)].iloc[0]
    best = fits.iloc[0]
    asked = users(half)
    attempts = int(asked["attempts"].sum())
    printed = [int(asked[config].sum()) for config in CONFIGS]
    measured = [float(best[f"expected_{config}"]) for config in CONFIGS]
    none = [float(written[f"expected_{config}"]) for config in CONFIGS]
    evidence = (
        f"one image against an empty buffer: {_triple(none)} of {attempts} flagged, the paper has {_triple(printed)}; "
        f"nearest protocol: {protocol_name(best)}, {_triple(measured)}"
    )
    return Finding(NUMBERS[half]["users"], NOT if max(none) < min(x for x in printed if x) else REPRODUCED, evidence)


def _triple(values: list[int] | list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def metric_finding(results: Results) -> Finding:
    """Judge Table 6 by its arithmetic."""
    cells = [one for half in HALVES for one in check(half)]
    wrong = [one for one in cells if not one.agrees]
    told = "; ".join(
        f"{one.half} {one.metric}, {one.column}: printed {one.printed:.2f}, computed {one.computed:.3f}"
        for one in wrong
    )
    evidence = f"{len(cells) - len(wrong)} of {len(cells)} cells follow from Tables 2 to 5"
    if told:
        evidence += f" ({told})"
    evidence += "; recall is 100% because a trial ends only when it is detected"
    for half in results.halves:
        measured = our_metrics(results, half)[OWN_NOISES].loc["accuracy", list(CONFIGS)]
        paper_values = performance(half).loc["accuracy", list(CONFIGS)]
        evidence += (
            f"; {half} accuracy with a noise for each configuration and the nearest protocol: "
            f"{', '.join(f'{value:.1f}' for value in measured)} "
            f"(paper {', '.join(f'{value:.1f}' for value in paper_values)})"
        )
    return Finding("Table 6", f"arithmetic {REPRODUCED}; values {NOT}", evidence)


def bar_finding(results: Results, half: str) -> Finding:
    """Judge Figure 6 or 7: does configuration 3 detect first on every label, and how far are the bars apart."""
    published = attacks(half)
    paper_values = float((published["config_3"] < published[["config_1", "config_2"]].min(axis=1)).mean())
    measured = paper_way(results, half, results.live_noise(half)).fillna(np.inf)
    measured_share = float((measured["config_3"] < measured[["config_1", "config_2"]].min(axis=1)).mean())
    rows = []
    for config in CONFIGS:
        noise, row = ladder_row(results, half, config)
        middle = float(row.fillna(np.inf).median())
        rows.append(f"configuration {config[-1]} {whole(middle)} at noise {noise:g} "
                    f"(paper {whole(published_medians(half)[config])})")  # fmt: skip
    evidence = (
        f"configuration 3 detects first on {percent(measured_share, brief=True)} of labels "
        f"(paper: {percent(paper_values, brief=True)}); medians over labels, each row by the noise nearest to it: "
        + ", ".join(rows)
    )
    return Finding(NUMBERS[half]["bars"], IN_KIND if measured_share >= 0.75 else NOT, evidence)
