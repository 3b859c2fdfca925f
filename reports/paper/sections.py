"""The tables of the page: each as Markdown, and as a frame for its CSV file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from reports.paper.arithmetic import Confusion, metric_table, published_confusions
from reports.paper.attack_tables import by_label, nearest_noise, paper_way, with_intervals
from reports.paper.drawing import title
from reports.paper.load import CALIBRATED, Results
from reports.paper.markdown import interval, table, whole
from reports.paper.published_tables import CONFIGS, attacks, performance, users
from reports.paper.readings import READING, family_rows, ladder_row, published_medians, reading_table
from reports.paper.user_tables import fit_table, label_table, protocol_name, workload_rates
from reports.wording import percent

Piece = tuple[str, pd.DataFrame]
"""Markdown, and the same numbers unrounded."""


def configs_table(results: Results) -> Piece:
    """Return Table 1, with the calibrated configurations beside it."""
    frame = results.configs.copy()
    rows = [
        [
            row["dataset"], title(row["config"]), f"{row['t_ssim']:.5f}", f"{row['t_hash']:.5f}", row["n_b"],
            row["l_sp"], row["ssim"],
            {True: "certified", False: "not certified"}.get(row["certified"], "the paper's" if
             row["config"] != CALIBRATED else "as given"),
        ]
        for _, row in frame.iterrows()
    ]  # fmt: skip
    return table(["half", "config", "T_ssim", "T_hash", "N_B", "L_sp", "SSIM", "guarantee"], rows, left=2), frame


def iterations_table(results: Results, half: str) -> Piece:
    """Return Table 2 or 3: labels across; by configuration the paper's row, two noises' of this run, the medians."""
    names, budget = results.classes(half), results.facts(half)["budget"]
    published: Any = attacks(half)
    single = results.live_noise(half)
    at_once: Any = paper_way(results, half, single)
    rows, frames = [], []
    for config in (*CONFIGS, CALIBRATED):
        if config not in results.config_names(half):
            continue
        lead = f"**{title(config)}**"
        medians = by_label(results, half, single)
        medians = medians[medians["config"] == config].set_index("label").reindex(names)
        medians["here_max_of_3"] = at_once[config]
        if config in CONFIGS:
            matched_noise, row = ladder_row(results, half, config)
            rows.append([lead, "paper", *(whole(published.loc[name, config]) for name in names)])
            if matched_noise != single:
                rows.append(["", f"noise {matched_noise:g}", *(whole(row[name]) for name in names)])
            medians = medians.assign(paper_max_of_3=published[config], own_noise=matched_noise, own_noise_max_of_3=row)
            lead = ""
        rows.append([lead, f"noise {single:g}", *(whole(at_once.loc[name, config]) for name in names)])
        frames.append(medians.reset_index().assign(noise=single, budget=int(budget)))
    return table(["", "", *(f"'{name}'" for name in names)], rows, left=2), pd.concat(frames, ignore_index=True)


def intervals_table(results: Results, half: str) -> Piece:
    """Return all trials with intervals: blocked within the budget, and queries to block."""
    frame = with_intervals(results, half)
    rows = []
    for _, row in frame.iterrows():
        budget = whole(row["budget"])
        band = (
            f"{whole(row['median_low'], never=f'over {budget}')} to {whole(row['median_high'], never=f'over {budget}')}"
        )
        rows.append(
            [
                f"{row['noise']:g}", title(row["config"]), f"{int(row['blocked'])} of {int(row['trials'])}",
                interval(row["low"], row["high"]), whole(row["median"], never=f"over {budget}"), band,
                whole(row["mean"]) if row["blocked"] == row["trials"] else f"at least {whole(row['mean'])}",
                f"{row['evaluator_confidence']:.2f}",
            ]
        )  # fmt: skip
    head = ["noise", "config", "blocked", "95%", "median queries", "95%", "mean queries", "held at block"]
    return table(head, rows, left=2), frame


def readings_table(results: Results, half: str) -> Piece:
    """Return which rows each way of reading the text reaches, and the noise nearest to all three."""
    readings = reading_table(results, half)
    medians = published_medians(half)
    rows: list[list[str]] = [["*the paper*", "", "", "", "", " · ".join(whole(medians[c]) for c in CONFIGS), ""]]
    for _, row in family_rows(readings).iterrows():
        cells = []
        for config in CONFIGS:
            span = row[config]
            cells.append(
                "no" if span is None else f"{span[0]:g}" if span[0] == span[1] else f"{span[0]:g} to {span[1]:g}"
            )
        nearest = " · ".join(whole(row[f"best_{c}"]) for c in CONFIGS)
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
        "configuration 2",
        "configuration 3",
        "nearest to all at",
        "gives",
        "off by",
    ]
    return table(head, rows), readings.sort_values("off")[[*READING, *CONFIGS, *(f"never_{c}" for c in CONFIGS), "off"]]


def users_table(results: Results, half: str) -> Piece:
    """Return Table 4 or 5: the paper's counts, and the nearest protocol's rates, label by label."""
    names = results.classes(half)
    published: Any = users(half)
    best = fit_table(results, half).iloc[0]
    measured = label_table(results, half, best)
    rows = []
    for config in (*CONFIGS, CALIBRATED):
        if config not in results.config_names(half):
            continue
        if config in CONFIGS:
            total = f"{int(published[config].sum())} of {int(published['attempts'].sum())}"
            rows.append(
                [f"**{title(config)}**", "paper", *(f"{published.loc[name, config]} of 3" for name in names), total]
            )
        blocked, trials = measured["blocked"][config], measured["trials"][config]
        rows.append(
            [
                "" if config in CONFIGS else f"**{title(config)}**", "here",
                *(percent(blocked[name] / trials[name], brief=True) for name in names),
                percent(blocked.sum() / trials.sum(), brief=True),
            ]
        )  # fmt: skip
    frame = measured.stack("config", future_stack=True).reset_index()
    for column in ("protocol", "images", "pool", "probability"):
        frame[column] = best[column]
    return table(["", "", *(f"'{name}'" for name in names), "all"], rows, left=2), frame


def protocols_table(results: Results, half: str) -> Piece:
    """Return the protocols, the likeliest first, with the false detections that each leads one to expect."""
    frame = fit_table(results, half)
    asked = users(half)
    printed = [int(asked[config].sum()) for config in CONFIGS]
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
    attempts = int(asked["attempts"].sum())
    head = [
        f"a trial is … (of {attempts})",
        "configuration 1",
        "configuration 2",
        "configuration 3",
        "calibrated",
        "log-likelihood",
    ]
    return table(head, rows), frame


OWN_NOISES = "own noises, nearest protocol"


def our_confusions(results: Results, half: str) -> dict[str, dict[str, Confusion]]:
    """Return our confusion matrices: all attackers, and users as written and by the nearest protocol.

    With one noise for all settings, and with the recorded noise that comes nearest to the paper's row of each.
    """
    attacked: Any = with_intervals(results, half).set_index(["noise", "config"])
    single = results.live_noise(half)
    names = results.config_names(half)
    matched_noise = {name: nearest_noise(results, half, name) if name in CONFIGS else single for name in names}
    fits = fit_table(results, half)
    written = fits[(fits["protocol"] == "distinct") & (fits["images"] == 1)].iloc[0]
    found: dict[str, dict[str, Confusion]] = {}
    for row, protocol, noise in (
        ("one noise, as written", written, dict.fromkeys(names, single)),
        ("one noise, nearest protocol", fits.iloc[0], dict.fromkeys(names, single)),
        (OWN_NOISES, fits.iloc[0], matched_noise),
    ):
        counted = label_table(results, half, protocol)
        found[row] = {}
        for name in names:
            flagged, trials = int(counted["blocked"][name].sum()), int(counted["trials"][name].sum())
            blocked, all_ = (int(attacked.loc[(noise[name], name), column]) for column in ("blocked", "trials"))
            found[row][name] = Confusion(tp=blocked, fn=all_ - blocked, fp=flagged, tn=trials - flagged)
    return found


def performance_table(results: Results, half: str) -> Piece:
    """Return Table 6: printed, computed from Tables 2 to 5, and ours."""
    computed, printed = metric_table(published_confusions(half)), performance(half)
    measured = our_metrics(results, half)
    rows, frames = [], []
    for metric in computed.index:
        for source, numbers in (
            ("paper, printed", printed), ("paper, computed", computed),
            *((f"here, {name}", found) for name, found in measured.items()),
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


def our_metrics(results: Results, half: str) -> dict[str, pd.DataFrame]:
    """Return Table 6 for each of `our_confusions`."""
    return {name: metric_table(_balanced(found)) for name, found in our_confusions(results, half).items()}


def _balanced(found: dict[str, Confusion]) -> dict[str, Confusion]:
    """Give attackers and users the same weight, as the paper has as many of the one as of the other."""
    scale = 10**6
    return {
        name: Confusion(
            tp=round(scale * one.tp / (one.tp + one.fn)),
            fn=round(scale * one.fn / (one.tp + one.fn)),
            fp=round(scale * one.fp / (one.fp + one.tn)),
            tn=round(scale * one.tn / (one.fp + one.tn)),
        )
        for name, one in found.items()
    }


def _metric(value: float) -> str:
    return "—" if np.isnan(value) else f"{value:.2f}"


def workloads_table(results: Results, half: str) -> Piece:
    """Return what configuration 3 and the calibrated configuration do to honest workloads beyond the paper's."""
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
