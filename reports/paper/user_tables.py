"""Tables 4 and 5: false detections of regular users by protocol, and the likelihood of each protocol."""

from __future__ import annotations

from typing import Any

import pandas as pd
from scipy import stats

from mifsim.statistics import clopper_pearson
from reports.paper.load import CALIBRATED, Results
from reports.paper.published_tables import CONFIGS, users

PROTOCOL = ["protocol", "images", "pool", "probability"]


def protocol_table(results: Results, half: str, *, ssim: str = "global", dynamic_range: int = 1) -> pd.DataFrame:
    """Return one row per protocol and configuration, over all labels.

    Returns
    -------
    DataFrame
        The columns of `PROTOCOL`, config, trials, blocked, rate, and the exact interval low, high.
    """
    selected = results.users[results.users["dataset"] == half]
    of_variant = (selected["ssim"] == ssim) & (selected["dynamic_range"] == dynamic_range)
    selected = selected[of_variant & (selected["config"] != CALIBRATED) | (selected["config"] == CALIBRATED)]
    table = selected.groupby([*PROTOCOL, "config"], dropna=False, sort=False)[["trials", "blocked"]].sum().reset_index()
    table["rate"] = table["blocked"] / table["trials"]
    ends = [clopper_pearson(int(b), int(n)) for b, n in zip(table["blocked"], table["trials"], strict=True)]
    table["low"], table["high"] = [low for low, _ in ends], [high for _, high in ends]
    return table


def fit_table(results: Results, half: str, *, ssim: str = "global", dynamic_range: int = 1) -> pd.DataFrame:
    """Return the protocols, ordered by the likelihood of the paper's totals.

    Returns
    -------
    DataFrame
        The columns of `PROTOCOL`; ``expected_<config>``, the expected false detections in the paper's number of
        attempts; and ``log_likelihood`` of the paper's three totals. For the likelihood, rates are smoothed by half a
        session, so that an observed rate of 0 is not treated as exactly 0. Sessions of one image have exactly rate 0.
    """
    published = users(half)
    attempts = int(published["attempts"].sum())
    rows = []
    for key, selected in protocol_table(results, half, ssim=ssim, dynamic_range=dynamic_range).groupby(
        PROTOCOL, dropna=False, sort=False
    ):
        row: dict[str, object] = dict(zip(PROTOCOL, key, strict=True))
        likelihood = 0.0
        by_config: Any = selected.set_index("config")
        for config in CONFIGS:
            blocked, trials = int(by_config.loc[config, "blocked"]), int(by_config.loc[config, "trials"])
            rate = 0.0 if row["images"] == 1 else (blocked + 0.5) / (trials + 1)
            likelihood += float(stats.binom.logpmf(int(published[config].sum()), attempts, rate))
            row[f"expected_{config}"] = attempts * blocked / trials
        if CALIBRATED in by_config.index:
            row[f"expected_{CALIBRATED}"] = attempts * float(by_config.loc[CALIBRATED, "rate"])
        rows.append({**row, "log_likelihood": likelihood})
    return pd.DataFrame(rows).sort_values("log_likelihood", ascending=False, kind="stable").reset_index(drop=True)


def protocol_name(row: pd.Series) -> str:
    """Return a description of a protocol."""
    images = f"{int(row['images'])} image{'s' if row['images'] != 1 else ''}"
    match row["protocol"]:
        case "distinct":
            return f"{images}, all distinct" if row["images"] > 1 else "one image per session (as written)"
        case "carried over":
            return f"{images} of all labels in turn, in one session"
        case "drawn again":
            return f"{images} drawn with replacement from {int(row['pool'])}"
        case "re-uploads":
            return f"{images}, {row['probability']:.0%} repeats of the previous one"
        case "re-encoded":
            return f"{images}, {row['probability']:.0%} repeats of the previous one, as JPEG"
    return str(row["protocol"])


def label_table(results: Results, half: str, protocol: pd.Series) -> pd.DataFrame:
    """Return Table 4 or 5 for one protocol: index label, and blocked and trials for each configuration."""
    selected = results.users[(results.users["dataset"] == half) & (results.users["dynamic_range"] == 1)]
    selected = selected[(selected["ssim"] == "global") | (selected["config"] == CALIBRATED)]
    for column in PROTOCOL:
        equal = selected[column].isna() if pd.isna(protocol[column]) else selected[column] == protocol[column]
        selected = selected[equal]
    names = results.classes(half)
    table = selected.pivot_table(index="label", columns="config", values=["blocked", "trials"], aggfunc="sum")
    table.index = pd.Index([names[int(label)] for label in table.index], name="label")
    return table


def workload_rates(results: Results, half: str) -> pd.DataFrame:
    """Return false-positive rates on further honest workloads, one row per workload and base configuration."""
    selected = results.curves[(results.curves["dataset"] == half) & (results.curves["role"] == "user")]
    rows = []
    configs = results.configs[results.configs["dataset"] == half].set_index("config")
    for base in selected["base"].unique():
        unchanged = selected[
            (selected["base"] == base)
            & (selected["parameter"] == "l_sp")
            & (selected["value"] == configs.loc[base, "l_sp"])
        ]
        for _, row in unchanged.iterrows():
            low, high = clopper_pearson(int(row["blocked"]), int(row["sessions"]))
            rows.append({"base": base, "workload": row["group"], "sessions": row["sessions"],
                         "blocked": row["blocked"], "low": low, "high": high})  # fmt: skip
    return pd.DataFrame(rows)
