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
"""A row is reached where the median over its labels is within this factor of the paper's."""


def reading_table(results: Results, half: str) -> pd.DataFrame:
    """Return one row a reading.

    Returns
    -------
    DataFrame
        The columns of `READING`; for each setting the median over the labels of the maximum iterations (infinite where
        half of the labels or more have an attacker that was never blocked), ``never_<setting>`` (labels with such an
        attacker), and ``off_<setting>``: by what factor the median is off the paper's; ``off``: the root mean square
        over the settings, as a factor.
    """
    selected = results.sweep[results.sweep["dataset"] == half].copy()
    selected["counted"] = selected["max_iterations"].astype(float).fillna(np.inf)
    selected["never"] = selected["max_iterations"].isna()
    grouped = selected.groupby([*READING, "config"]).agg(middle=("counted", "median"), never=("never", "sum"))
    table = grouped.reset_index().pivot(index=READING, columns="config", values=["middle", "never"])
    found = pd.DataFrame(index=table.index)
    squares = np.zeros(len(table))
    for config, wanted in published_medians(half).items():
        middle = table["middle"][config].astype(float)
        off = (np.log(middle) - np.log(wanted)).abs()
        found[config] = middle
        found[f"never_{config}"] = table["never"][config].astype(int)
        found[f"off_{config}"] = np.exp(off)
        squares += off.to_numpy() ** 2
    found["off"] = np.exp(np.sqrt(squares / len(CONFIGS)))
    return found.reset_index()


def published_medians(half: str) -> dict[str, float]:
    """Return the paper's medians over the labels."""
    return {config: float(attacks(half)[config].median()) for config in CONFIGS}


def reaches(row: pd.Series, config: str) -> bool:
    """Whether a reading reaches a row of the paper's table."""
    return bool(row[f"off_{config}"] <= REACHED)


def ladder_row(results: Results, half: str, config: str) -> tuple[float, pd.Series]:
    """Return the noise that, with the text as written, comes nearest to one row of the paper, and that row by label.

    Where no noise has half of the labels detected, the one with the most labels detected.
    """
    readings = reading_table(results, half)
    written = (readings[list(AS_WRITTEN)] == pd.Series(AS_WRITTEN)).all(axis=1)
    best = readings[written].sort_values([f"off_{config}", f"never_{config}"], kind="stable").iloc[0]
    selected = results.sweep[(results.sweep["dataset"] == half) & (results.sweep["config"] == config)]
    for column in READING:
        selected = selected[selected[column] == best[column]]
    names = results.classes(half)
    row = selected.set_index("label")["max_iterations"].astype(float)
    return float(best["noise"]), row.rename(index=lambda label: names[int(label)])


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
        best = table.sort_values("off", kind="stable").iloc[0]
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
        rows.append(row)
    return pd.DataFrame(rows)
