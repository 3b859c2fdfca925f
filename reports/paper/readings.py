"""What the text leaves open: which reading comes nearest to which of the paper's rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reports.paper.load import Results
from reports.paper.published_tables import CONFIGS, attacks

VARIANT = ["noise", "noise_on", "step", "process", "transport"]
READING = [*VARIANT, "ssim", "dynamic_range", "hash_size", "count_rule"]
AS_WRITTEN = {
    "noise_on": "iterate", "step": 0.1, "process": "identity", "transport": "float32", "ssim": "global",
    "dynamic_range": 1, "hash_size": 8, "count_rule": "per_match",
}  # fmt: skip
"""The text where it says something, and the plainest reading where it does not."""

REACHED = 2.0
"""A row is reached where the geometric mean over its labels is within this factor of the paper's, all blocked."""


def reading_table(results: Results, half: str) -> pd.DataFrame:
    """Return one row a reading.

    Returns
    -------
    DataFrame
        The columns of `READING`; for each setting its geometric mean over the labels of the maximum iterations (a
        label never blocked counts with the budget), ``never_<setting>`` (labels with an attacker never blocked), and
        ``off_<setting>``: by what factor the mean is off the paper's; ``off``: the root mean square over the settings,
        as a factor.
    """
    mine = results.sweep[results.sweep["dataset"] == half].copy()
    mine["counted"] = np.log(mine["max_iterations"].astype(float).fillna(mine["budget_queries"]))
    mine["never"] = mine["max_iterations"].isna()
    grouped = (
        mine.groupby([*READING, "setting"]).agg(log_mean=("counted", "mean"), never=("never", "sum")).reset_index()
    )
    table = grouped.pivot(index=READING, columns="setting", values=["log_mean", "never"])
    found = pd.DataFrame(index=table.index)
    published = attacks(half)
    squares = np.zeros(len(table))
    for config in CONFIGS:
        mean = table["log_mean"][config]
        off = mean - np.log(published[config]).mean()
        found[config] = np.exp(mean)
        found[f"never_{config}"] = table["never"][config].astype(int)
        found[f"off_{config}"] = np.exp(off.abs())
        squares += off.to_numpy() ** 2
    found["off"] = np.exp(np.sqrt(squares / len(CONFIGS)))
    return found.reset_index()


def published_means(half: str) -> dict[str, float]:
    """Return the paper's geometric means over the labels."""
    return {config: float(np.exp(np.log(attacks(half)[config]).mean())) for config in CONFIGS}


def reaches(row: pd.Series, config: str) -> bool:
    """Whether a reading reaches a row of the paper's table."""
    return bool(row[f"off_{config}"] <= REACHED and row[f"never_{config}"] == 0)


def families(half_table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the readings grouped by what is read otherwise than the text has it; each group over all noises."""

    def only(**changes: object) -> pd.DataFrame:
        wanted = {**AS_WRITTEN, **changes}
        mask = np.ones(len(half_table), dtype=bool)
        for column, value in wanted.items():
            mask &= (half_table[column] == value).to_numpy()
        return half_table[mask]

    named = [
        ("as written", only()),
        ("noise on the submitted copy alone", only(noise_on="copy")),
        ("SSIM in 7×7 windows (scikit-image)", only(ssim="uniform")),
        ("SSIM in Gaussian windows", only(ssim="gaussian")),
        ("C1, C2 for range 255", only(dynamic_range=255)),
        ("C1, C2 for range 255, 7×7 windows", only(dynamic_range=255, ssim="uniform")),
        ("at most one count a query", only(count_rule="per_query")),
        ("hash of 1×1", only(hash_size=1)),
        ("hash of 64×64", only(hash_size=64)),
        ("8-bit wire", only(transport="uint8")),
        ("JPEG wire (quality 90)", only(transport="jpeg-90")),
        ("8-bit wire, 7×7 windows", only(transport="uint8", ssim="uniform")),
        ("denoise and sharpen after each step", only(process="denoise-sharpen")),
        *((f"step {step:g}", only(step=step)) for step in sorted(half_table["step"].unique()) if step != 0.1),
    ]  # fmt: skip
    return [(name, table) for name, table in named if not table.empty]


def family_rows(half_table: pd.DataFrame) -> pd.DataFrame:
    """Return for each family which rows some noise reaches, and the noise nearest to all three at once."""
    rows = []
    for name, table in families(half_table):
        best = table.loc[table["off"].idxmin()]
        row: dict[str, object] = {"reading": name}
        for config in CONFIGS:
            reached = [one for _, one in table.iterrows() if reaches(one, config)]
            row[config] = (
                (min(float(one["noise"]) for one in reached), max(float(one["noise"]) for one in reached))
                if (reached)
                else None
            )
        at_once = max((sum(reaches(one, config) for config in CONFIGS) for _, one in table.iterrows()), default=0)
        row |= {"at_once": at_once, "noise": float(best["noise"]), "off": float(best["off"])}
        row |= {f"best_{config}": float(best[config]) for config in CONFIGS}
        row |= {f"never_{config}": int(best[f"never_{config}"]) for config in CONFIGS}
        rows.append(row)
    return pd.DataFrame(rows)
