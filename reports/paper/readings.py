"""Readings of the paper's text, that is, combinations of its open choices, and their distance to the paper's rows."""

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
"""The choices that the text states, and the simplest ones where it states none."""

REACH_FACTOR = 2.0
"""A reading reaches a row of the paper if their medians over the labels differ at most by this factor."""


def reading_table(results: Results, half: str) -> pd.DataFrame:
    """Return one row per reading.

    Returns
    -------
    DataFrame
        The columns of `READING`; for each configuration the median over the labels of the maximum iterations (infinite
        if at least half of the labels have an attacker that was never blocked), ``never_<config>`` (the number of such
        labels) and ``off_<config>`` (the factor between the median and the paper's); and ``off``, the root mean square
        over the configurations, as a factor.
    """
    selected = results.sweep[results.sweep["dataset"] == half].copy()
    selected["iterations"] = selected["max_iterations"].astype(float).fillna(np.inf)
    selected["never"] = selected["max_iterations"].isna()
    grouped = selected.groupby([*READING, "config"]).agg(median=("iterations", "median"), never=("never", "sum"))
    table = grouped.reset_index().pivot(index=READING, columns="config", values=["median", "never"])
    readings = pd.DataFrame(index=table.index)
    squares = np.zeros(len(table))
    for config, published in published_medians(half).items():
        median = table["median"][config].astype(float)
        off = (np.log(median) - np.log(published)).abs()
        readings[config] = median
        readings[f"never_{config}"] = table["never"][config].astype(int)
        readings[f"off_{config}"] = np.exp(off)
        squares += off.to_numpy() ** 2
    readings["off"] = np.exp(np.sqrt(squares / len(CONFIGS)))
    return readings.reset_index()


def published_medians(half: str) -> dict[str, float]:
    """Return the paper's medians over the labels."""
    return {config: float(attacks(half)[config].median()) for config in CONFIGS}


def reaches(row: pd.Series, config: str) -> bool:
    """Return whether a reading reaches a row of the paper's table."""
    return bool(row[f"off_{config}"] <= REACH_FACTOR)


def nearest_sweep_row(results: Results, half: str, config: str) -> tuple[float, pd.Series]:
    """Return the noise nearest to one row of the paper with the text as written, and its iterations by label.

    If no noise leads to a detection on half of the labels, return the one with the most labels detected.
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
    """Return the readings grouped by their differences from the text as written; each group has all noise levels."""

    def only(**changes: object) -> pd.DataFrame:
        choices = {**AS_WRITTEN, **changes}
        mask = np.ones(len(half_table), dtype=bool)
        for column, value in choices.items():
            mask &= (half_table[column] == value).to_numpy()
        return half_table[mask]

    named = [
        ("as written", only()),
        ("noise on the submitted copy only", only(noise_on="copy")),
        ("SSIM in 7×7 windows (scikit-image)", only(ssim="uniform")),
        ("SSIM in Gaussian windows", only(ssim="gaussian")),
        ("C1, C2 for range 255", only(dynamic_range=255)),
        ("C1, C2 for range 255, 7×7 windows", only(dynamic_range=255, ssim="uniform")),
        ("at most one count per query", only(count_rule="per_query")),
        ("hash of 1×1", only(hash_size=1)),
        ("hash of 64×64", only(hash_size=64)),
        ("8-bit transport", only(transport="uint8")),
        ("JPEG transport (quality 90)", only(transport="jpeg-90")),
        ("8-bit transport, 7×7 windows", only(transport="uint8", ssim="uniform")),
        ("denoising and sharpening after each step", only(process="denoise-sharpen")),
        *((f"step {step:g}", only(step=step)) for step in sorted(half_table["step"].unique()) if step != 0.1),
    ]  # fmt: skip
    return [(name, table) for name, table in named if not table.empty]


def family_rows(half_table: pd.DataFrame) -> pd.DataFrame:
    """Return for each family the noise levels that reach each row, and the noise nearest to all three rows."""
    rows = []
    for name, table in families(half_table):
        best = table.sort_values("off", kind="stable").iloc[0]
        row: dict[str, object] = {"reading": name}
        for config in CONFIGS:
            levels = [float(reading["noise"]) for _, reading in table.iterrows() if reaches(reading, config)]
            row[config] = (min(levels), max(levels)) if levels else None
        at_once = max(
            (sum(reaches(reading, config) for config in CONFIGS) for _, reading in table.iterrows()), default=0
        )
        row |= {"at_once": at_once, "noise": float(best["noise"]), "off": float(best["off"])}
        row |= {f"best_{config}": float(best[config]) for config in CONFIGS}
        rows.append(row)
    return pd.DataFrame(rows)
