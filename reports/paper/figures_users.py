"""Figures of regular users: Figure 5 of the paper, and false detections by protocol."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mifsim.statistics import clopper_pearson
from reports.paper.arithmetic import Confusion, published_confusions
from reports.paper.drawing import COLOURS, INK, MARKERS, head, save, sheet, title
from reports.paper.load import CALIBRATED, Results
from reports.paper.published_tables import CONFIGS, users
from reports.paper.user_tables import PROTOCOL, protocol_name, protocol_table


def confusions(results: Results, half: str, reproduced: Mapping[str, Mapping[str, Confusion]], out: Path) -> str:
    """Draw Figure 5: one row for the paper and for each reproduction, one column per configuration."""
    names = [*CONFIGS, *([CALIBRATED] if any(CALIBRATED in row for row in reproduced.values()) else [])]
    rows: dict[str, Mapping[str, Confusion]] = {"paper": published_confusions(half), **reproduced}
    figure, axes = sheet(len(names), len(rows), width=2.1 * len(names) + 0.6, height=1.75 * len(rows) + 0.3)
    for line, (row, by_config) in zip(axes, rows.items(), strict=True):
        for axis, name in zip(line, names, strict=True):
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
            if name not in by_config:
                axis.set_axis_off()
                continue
            confusion = by_config[name]
            counts = np.array([[confusion.tp, confusion.fn], [confusion.fp, confusion.tn]])
            totals = counts.sum(axis=1, keepdims=True)
            axis.imshow(counts / np.maximum(totals, 1), cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
            for (i, j), value in np.ndenumerate(counts):
                dark = value > 0.6 * totals[i, 0]
                axis.text(j, i, f"{value:,}", ha="center", va="center", fontsize=10, color="white" if dark else INK)
            axis.set_xticks([0, 1], ["flagged", "passed"], fontsize=7)
            axis.set_yticks([0, 1], ["attack", "user"], fontsize=7)
            head(axis, title(name))
            axis.title.set_fontsize(8)
        line[0].set_ylabel(row.replace(", ", ",\n"), fontsize=7.5, rotation=0, ha="right", va="center", labelpad=6)
    return save(figure, out, f"confusion-{half.lower()}")


def protocols(results: Results, half: str, out: Path) -> str:
    """Draw the share of regular users flagged, one line per protocol, below the paper's totals."""
    table = protocol_table(results, half)
    protocol_columns = table[PROTOCOL].astype(object).where(table[PROTOCOL].notna(), None)
    keys = list(dict.fromkeys(tuple(row) for row in protocol_columns.to_numpy()))
    figure, axes = sheet(1, width=8.6, height=0.27 * len(keys) + 1.0)
    axis = axes[0][0]
    published = users(half)
    attempts = int(published["attempts"].sum())
    names = [*CONFIGS, CALIBRATED]
    offsets = dict(zip(names, (-0.27, -0.09, 0.09, 0.27), strict=True))
    labels = ["paper"]
    for config in CONFIGS:
        blocked = int(published[config].sum())
        _point(axis, 0 + offsets[config], blocked, attempts, config, legend=True)
    axis.axhspan(-0.5, 0.5, color="#f1f3f6", zorder=0)
    for line, key in enumerate(keys, 1):
        selected = table
        for column, value in zip(PROTOCOL, key, strict=True):
            selected = selected[selected[column].isna()] if value is None else selected[selected[column] == value]
        labels.append(protocol_name(selected.iloc[0]))
        for _, row in selected.iterrows():
            _point(axis, line + offsets[row["config"]], int(row["blocked"]), int(row["trials"]), str(row["config"]),
                   legend=line == 1 and row["config"] == CALIBRATED)  # fmt: skip
    axis.set_yticks(range(len(labels)), labels, fontsize=7.5)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_xlim(-0.01, 1.01)
    axis.grid(axis="x", color="#d9dde3", linewidth=0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("share of sessions flagged, with exact 95% interval", fontsize=8)
    axis.legend(fontsize=7, frameon=False, loc="upper right")
    return save(figure, out, f"users-{half.lower()}")


def _point(axis: Any, y: float, blocked: int, trials: int, config: str, *, legend: bool) -> None:
    low, high = clopper_pearson(blocked, trials)
    rate = blocked / trials
    axis.errorbar(rate, y, xerr=[[rate - low], [high - rate]], fmt=MARKERS[config], color=COLOURS[config],
                  markersize=3.5, linewidth=1, label=title(config) if legend else None)  # fmt: skip
