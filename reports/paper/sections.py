"""The tables of the page, each as Markdown and as a data frame for its CSV file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from reports.paper.arithmetic import Confusion, metric_table, published_confusions
from reports.paper.attack_tables import by_label, max_iterations, nearest_noise, with_intervals
from reports.paper.drawing import title
from reports.paper.load import CALIBRATED, Results
from reports.paper.markdown import format_count, interval, table
from reports.paper.published_tables import CONFIGS, attacks, performance, users
from reports.paper.readings import READING, family_rows, nearest_sweep_row, published_medians, reading_table
from reports.paper.user_tables import fit_table, label_table, protocol_name, workload_rates
from reports.wording import percent

TableOutput = tuple[str, pd.DataFrame]
"""A table as Markdown, and its unrounded numbers."""


def accuracies(facts: dict[str, str]) -> str:
    """Return a sentence on the accuracy of victim and evaluator, which limits what a leakage score can mean."""
    text = f"Accuracy on unseen images: victim {facts['victim accuracy']}"
    if "evaluator accuracy" in facts:  # tables of earlier versions lack it
        text += f", evaluator {facts['evaluator accuracy']}"
    return f"{text}."


def configs_table(results: Results) -> TableOutput:
    """Return Table 1, followed by the calibrated configurations."""
    frame = results.configs.copy()
    rows = [
        [
            row["dataset"], title(row["config"]), f"{row['t_ssim']:.5f}", f"{row['t_hash']:.5f}", row["n_b"],
            row["l_sp"], row["ssim"],
            {True: "certified", False: "not certified"}.get(row["certified"], "none" if
             row["config"] != CALIBRATED else "not stated"),
        ]
        for _, row in frame.iterrows()
    ]  # fmt: skip
    return table(["half", "configuration", "T_ssim", "T_hash", "N_B", "L_sp", "SSIM", "guarantee"], rows, left=2), frame


def iterations_table(results: Results, half: str) -> TableOutput:
    """Return Table 2 or 3: for each configuration the paper's row, and the reproduced rows at two noise levels."""
    names, budget = results.classes(half), results.facts(half)["budget"]
    published: Any = attacks(half)
    single = results.live_noise(half)
    reproduced: Any = max_iterations(results, half, single)
    rows, frames = [], []
    for config in (*CONFIGS, CALIBRATED):
        if config not in results.config_names(half):
            continue
        lead = f"**{title(config)}**"
        medians = by_label(results, half, single)
        medians = medians[medians["config"] == config].set_index("label").reindex(names)
        medians["here_max_of_3"] = reproduced[config]
        if config in CONFIGS:
            matched_noise, row = nearest_sweep_row(results, half, config)
            rows.append([lead, "paper", *(format_count(published.loc[name, config]) for name in names)])
            if matched_noise != single:
                rows.append(["", f"noise {matched_noise:g}", *(format_count(row[name]) for name in names)])
            medians = medians.assign(paper_max_of_3=published[config], own_noise=matched_noise, own_noise_max_of_3=row)
            lead = ""
        rows.append([lead, f"noise {single:g}", *(format_count(reproduced.loc[name, config]) for name in names)])
        frames.append(medians.reset_index().assign(noise=single, budget=int(budget)))
    return table(["", "", *(f"'{name}'" for name in names)], rows, left=2), pd.concat(frames, ignore_index=True)


def intervals_table(results: Results, half: str) -> TableOutput:
    """Return the share blocked within the budget and the queries to block, of all trials and with intervals."""
    frame = with_intervals(results, half)
    rows = []
    for _, row in frame.iterrows():
        over = f"over {format_count(row['budget'])}"
        low, high = (format_count(row[column], never=over) for column in ("median_low", "median_high"))
        mean = format_count(row["mean"])
        rows.append(
            [
                f"{row['noise']:g}", title(row["config"]), f"{int(row['blocked'])} of {int(row['trials'])}",
                interval(row["low"], row["high"]), format_count(row["median"], never=over), f"{low} to {high}",
                mean if row["blocked"] == row["trials"] else f"at least {mean}",
                f"{row['evaluator_confidence']:.2f}",
            ]
        )  # fmt: skip
    head = ["noise", "configuration", "blocked", "95% CI", "median queries", "95% CI", "mean queries", "confidence"]
    return table(head, rows, left=2), frame


def readings_table(results: Results, half: str) -> TableOutput:
    """Return for each family of readings the rows that it reaches, and its noise nearest to all three rows."""
    readings = reading_table(results, half)
    medians = published_medians(half)
    rows: list[list[str]] = [["*the paper*", "", "", "", "", " · ".join(format_count(medians[c]) for c in CONFIGS), ""]]
    for _, row in family_rows(readings).iterrows():
        cells = []
        for config in CONFIGS:
            span = row[config]
            cells.append(
                "no" if span is None else f"{span[0]:g}" if span[0] == span[1] else f"{span[0]:g} to {span[1]:g}"
            )
        nearest = " · ".join(format_count(row[f"best_{c}"]) for c in CONFIGS)
        rows.append(
            [
                row["reading"],
                *cells,
                f"{row['noise']:g}",
                nearest,
                f"{row['off']:.1f}×" if np.isfinite(row["off"]) else "—",
            ]
        )
    head = [
        "reading",
        "reaches configuration 1 at noise",
        "configuration 2 at",
        "configuration 3 at",
        "nearest noise",
        "medians at that noise",
        "error factor",
    ]
    return table(head, rows), readings.sort_values("off")[[*READING, *CONFIGS, *(f"never_{c}" for c in CONFIGS), "off"]]


def users_table(results: Results, half: str) -> TableOutput:
    """Return Table 4 or 5: the paper's counts and the nearest protocol's rates, by label."""
    names = results.classes(half)
    published: Any = users(half)
    best = fit_table(results, half).iloc[0]
    counts = label_table(results, half, best)
    rows = []
    for config in (*CONFIGS, CALIBRATED):
        if config not in results.config_names(half):
            continue
        if config in CONFIGS:
            total = f"{int(published[config].sum())} of {int(published['attempts'].sum())}"
            rows.append(
                [f"**{title(config)}**", "paper", *(f"{published.loc[name, config]} of 3" for name in names), total]
            )
        blocked, trials = counts["blocked"][config], counts["trials"][config]
        rows.append(
            [
                "" if config in CONFIGS else f"**{title(config)}**", "reproduced",
                *(percent(blocked[name] / trials[name], brief=True) for name in names),
                percent(blocked.sum() / trials.sum(), brief=True),
            ]
        )  # fmt: skip
    frame = counts.stack("config", future_stack=True).reset_index()
    for column in ("protocol", "images", "pool", "probability"):
        frame[column] = best[column]
    return table(["", "", *(f"'{name}'" for name in names), "all"], rows, left=2), frame


def protocols_table(results: Results, half: str) -> TableOutput:
    """Return the protocols with their expected false detections, ordered by likelihood."""
    frame = fit_table(results, half)
    published = users(half)
    printed = [int(published[config].sum()) for config in CONFIGS]
    rows: list[list[str]] = [["*the paper*", *(str(count) for count in printed), "", ""]]
    calibrated = f"expected_{CALIBRATED}" in frame
    for _, row in frame.iterrows():
        likelihood = "impossible" if np.isinf(row["log_likelihood"]) else f"{row['log_likelihood']:.1f}"
        rows.append(
            [
                protocol_name(row), *(f"{row[f'expected_{config}']:.1f}" for config in CONFIGS),
                f"{row[f'expected_{CALIBRATED}']:.1f}" if calibrated else "", likelihood,
            ]
        )  # fmt: skip
    attempts = int(published["attempts"].sum())
    head = [
        f"images of a trial (false detections of {attempts})",
        "configuration 1",
        "configuration 2",
        "configuration 3",
        "calibrated",
        "log-likelihood",
    ]
    return table(head, rows), frame


MATCHED_NOISES = "matched noises, nearest protocol"


def reproduced_confusions(results: Results, half: str) -> dict[str, dict[str, Confusion]]:
    """Return the reproduced confusion matrices, with all attackers.

    They combine one noise for all configurations, or a matched noise for each (the noise of the main study nearest to
    the paper's row), with the users' protocol as written or the nearest one.
    """
    attackers: Any = with_intervals(results, half).set_index(["noise", "config"])
    single = results.live_noise(half)
    names = results.config_names(half)
    matched_noise = {name: nearest_noise(results, half, name) if name in CONFIGS else single for name in names}
    fits = fit_table(results, half)
    written = fits[(fits["protocol"] == "distinct") & (fits["images"] == 1)].iloc[0]
    confusions: dict[str, dict[str, Confusion]] = {}
    for row, protocol, noise in (
        ("one noise, as written", written, dict.fromkeys(names, single)),
        ("one noise, nearest protocol", fits.iloc[0], dict.fromkeys(names, single)),
        (MATCHED_NOISES, fits.iloc[0], matched_noise),
    ):
        counts = label_table(results, half, protocol)
        confusions[row] = {}
        for name in names:
            flagged, sessions = int(counts["blocked"][name].sum()), int(counts["trials"][name].sum())
            blocked, trials = (int(attackers.loc[(noise[name], name), column]) for column in ("blocked", "trials"))
            confusions[row][name] = Confusion(tp=blocked, fn=trials - blocked, fp=flagged, tn=sessions - flagged)
    return confusions


def performance_table(results: Results, half: str) -> TableOutput:
    """Return Table 6: printed, computed from Tables 2 to 5, and reproduced."""
    computed, printed = metric_table(published_confusions(half)), performance(half)
    reproduced = reproduced_metrics(results, half)
    rows, frames = [], []
    for metric in computed.index:
        for source, numbers in (
            ("paper, printed", printed), ("paper, computed", computed),
            *((f"reproduced, {name}", metrics) for name, metrics in reproduced.items()),
        ):  # fmt: skip
            columns = [*CONFIGS, "average", CALIBRATED]
            cells = [_metric(numbers.loc[metric, c]) if c in numbers.columns else "" for c in columns]
            rows.append([f"**{metric}**" if source == "paper, printed" else "", source, *cells])
            frames += [
                {
                    "dataset": half,
                    "metric": metric,
                    "source": source,
                    "column": c,
                    "percent": float(numbers.loc[metric, c]),
                }
                for c in columns
                if c in numbers.columns
            ]
    head = ["", "%", *(title(config) for config in CONFIGS), "average", "calibrated"]
    return table(head, rows, left=2), pd.DataFrame(frames)


def reproduced_metrics(results: Results, half: str) -> dict[str, pd.DataFrame]:
    """Return Table 6 for each of `reproduced_confusions`."""
    confusions = reproduced_confusions(results, half)
    return {name: metric_table(_balanced(by_config)) for name, by_config in confusions.items()}


def _balanced(confusions: dict[str, Confusion]) -> dict[str, Confusion]:
    """Weight attackers and users equally, since the paper has equally many of both."""
    scale = 10**6
    return {
        name: Confusion(
            tp=round(scale * confusion.tp / (confusion.tp + confusion.fn)),
            fn=round(scale * confusion.fn / (confusion.tp + confusion.fn)),
            fp=round(scale * confusion.fp / (confusion.fp + confusion.tn)),
            tn=round(scale * confusion.tn / (confusion.fp + confusion.tn)),
        )
        for name, confusion in confusions.items()
    }


def _metric(value: float) -> str:
    return "—" if np.isnan(value) else f"{value:.2f}"


def workloads_table(results: Results, half: str) -> TableOutput:
    """Return the rates at which configuration 3 and the calibrated configuration block further honest workloads."""
    frame = workload_rates(results, half)
    rows = []
    for workload in dict.fromkeys(frame["workload"]):
        cells = [workload]
        for base in dict.fromkeys(frame["base"]):
            row = frame[(frame["workload"] == workload) & (frame["base"] == base)].iloc[0]
            share = percent(row["blocked"] / row["sessions"], brief=True)
            cells.append(f"{share} ({interval(row['low'], row['high'])})")
        rows.append(cells)
    return table(["honest sessions blocked", *(title(str(b)) for b in dict.fromkeys(frame["base"]))], rows), frame
