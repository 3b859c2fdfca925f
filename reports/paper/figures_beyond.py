"""Figures beyond the paper: sensitivity to the four parameters, alone and in pairs, and reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, NullFormatter

from reports.paper.drawing import COLOURS, GREY, INK, head, save, sheet, title
from reports.paper.load import CALIBRATED, Results

_WHOLE = FuncFormatter(lambda value, _: f"{value:,.0f}")
_USER_LINES = {
    "distinct images": (0, (1, 1)),
    "images of one class": (0, (3, 1, 1, 1)),
    "retries": (0, (5, 2)),
    "bursts of one subject": "-",
}
PARAMETERS = {
    "t_ssim": "1 − T_ssim (log)",
    "t_hash": "T_hash (log)",
    "n_b": "N_B",
    "l_sp": "L_sp (log)",
}


def curves(results: Results, half: str, base: str, out: Path) -> str | None:
    """Draw the one-at-a-time curves around a configuration: queries to block, and false positives below."""
    selected = results.curves[(results.curves["dataset"] == half) & (results.curves["base"] == base)]
    if selected.empty:
        return None
    config = results.configs[(results.configs["dataset"] == half) & (results.configs["config"] == base)].iloc[0]
    figure, axes = sheet(4, 2, height=4.4, sharey="row", sharex="col")
    attackers = list(dict.fromkeys(selected.loc[selected["role"] == "attacker", "group"]))
    shades = dict(zip(attackers, ("#f0a35e", "#d55e00", "#7a2f00")[-len(attackers) :], strict=False))
    for column, (parameter, label) in enumerate(PARAMETERS.items()):
        above, below = axes[0][column], axes[1][column]
        of_parameter = selected[selected["parameter"] == parameter]
        current = float(config[parameter])
        for group in attackers:
            line = of_parameter[of_parameter["group"] == group].sort_values("value")
            above.plot(_x(parameter, line["value"]), line["queries_to_block"], color=shades[group], label=group)
        for group in dict.fromkeys(selected.loc[selected["role"] == "user", "group"]):
            line = of_parameter[of_parameter["group"] == group].sort_values("value")
            below.plot(_x(parameter, line["value"]), line["blocked"] / line["sessions"], color="#2a80c8",
                       linestyle=_USER_LINES.get(group, "-"), label=group)  # fmt: skip
        for axis in (above, below):
            axis.axvline(float(_x(parameter, np.array([current]))[0]), color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
            if parameter != "n_b":
                axis.set_xscale("log")
        above.set_yscale("log")
        above.yaxis.set_major_formatter(_WHOLE)
        above.yaxis.set_minor_formatter(NullFormatter())
        below.set_ylim(-0.03, 1.03)
        below.set_xlabel(label, fontsize=8)
        head(above, f"{parameter} = {current:.5g}")
    axes[0][0].set_ylabel("queries to block\n(restricted mean)", fontsize=8)
    axes[1][0].set_ylabel("honest sessions\nblocked", fontsize=8)
    axes[0][3].legend(fontsize=6.5, frameon=False)
    axes[1][3].legend(fontsize=6.5, frameon=False)
    return save(figure, out, f"curves-{base.replace('_', '-')}-{half.lower()}")


def _x(parameter: str, values: Any) -> Any:
    numbers = np.asarray(values, dtype=float)
    return 1 - numbers if parameter == "t_ssim" else numbers


def heat(results: Results, half: str, out: Path) -> str:
    """Draw the heat maps of both planes: the fewest queries to block of the configurations in a cell."""
    selected = results.heat[results.heat["dataset"] == half]
    figure, axes = sheet(2, height=3.7, width=9.6)
    finite = selected["queries_to_block"].dropna()
    norm = LogNorm(max(1.0, float(finite.min())) if len(finite) else 1.0, float(finite.max()) if len(finite) else 10.0)
    images = []
    for axis, plane in zip(axes[0], ("thresholds", "counts"), strict=True):
        of_plane = selected[selected["plane"] == plane]
        grid = of_plane.pivot(index="y", columns="x", values="queries_to_block")
        if plane == "thresholds":
            grid = grid[sorted(grid.columns, reverse=True)]
        values = np.ma.masked_invalid(grid.to_numpy(dtype=float))
        axis.set_facecolor("#e4e7ec")
        images.append(axis.imshow(values, origin="lower", aspect="auto", norm=norm, cmap="viridis_r"))
        axis.grid(visible=False)
        xs, ys = np.array(grid.columns, dtype=float), np.array(grid.index, dtype=float)
        shown_x = _ticks(len(xs))
        if plane == "thresholds":
            _decades(axis, "x", 1 - xs)
            _decades(axis, "y", ys)
            axis.set_xlabel("1 − T_ssim", fontsize=8)
            axis.set_ylabel("T_hash", fontsize=8)
            head(axis, "thresholds; best N_B and L_sp in each cell")
            for name in results.config_names(half):
                row = results.configs[(results.configs["dataset"] == half) & (results.configs["config"] == name)].iloc[
                    0
                ]
                if row["ssim"] != "uniform" and name == CALIBRATED:
                    continue
                x = np.interp(np.log(1 - row["t_ssim"]), np.log(1 - xs), np.arange(len(xs)))
                y = np.interp(np.log(row["t_hash"]), np.log(ys), np.arange(len(ys)))
                axis.plot(x, y, "o", markerfacecolor="white", markeredgecolor=COLOURS[name], markersize=7, mew=2)
                axis.annotate(title(name), (x, y), xytext=(8, 5), textcoords="offset points", fontsize=7,
                              bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none",
                                    "alpha": 0.8})  # fmt: skip
        else:
            axis.set_xticks(shown_x, [f"{xs[i]:.0f}" for i in shown_x])
            axis.set_yticks(range(0, len(ys), 2), [f"{value:.0f}" for value in ys[::2]])
            axis.set_xlabel("N_B", fontsize=8)
            axis.set_ylabel("L_sp", fontsize=8)
            head(axis, "counts; best thresholds in each cell")
    bar = figure.colorbar(images[0], ax=list(axes[0]), fraction=0.03, pad=0.01)
    bar.set_label("queries to block, worst attack", fontsize=8)
    bar.ax.yaxis.set_major_formatter(_WHOLE)
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.ax.tick_params(labelsize=7)
    return save(figure, out, f"heat-{half.lower()}")


def _ticks(count: int) -> list[int]:
    return [int(index) for index in np.unique(np.linspace(0, count - 1, min(count, 6)).round())]


def _decades(axis: Any, which: str, values: Any) -> None:
    """Label a log-spaced axis of cells at powers of ten, which may lie between cells."""
    order = np.argsort(values)
    powers = [10.0**k for k in range(-6, 2) if values.min() * 0.999 <= 10.0**k <= values.max() * 1.001]
    ticks = [float(np.interp(np.log(power), np.log(values[order]), np.arange(len(values))[order])) for power in powers]
    labels = [f"{power:g}" for power in powers]
    (axis.set_xticks if which == "x" else axis.set_yticks)(ticks, labels)


def pictures(results: Results, half: str, out: Path) -> str:
    """Draw the final reconstruction of the first attacker on each label, by configuration.

    A training image of each label is above them, if the tables have one.
    """
    selected = results.pictures[results.pictures["dataset"] == half]
    rows = [name for name in ("private", "undefended", *results.config_names(half)) if (selected["row"] == name).any()]
    labels = sorted(selected["label"].unique())
    names = results.classes(half)
    side = 0.86 if len(labels) > 4 else 1.5
    figure, axes = sheet(len(labels), len(rows), width=side * len(labels) + 1.3, height=(side + 0.2) * len(rows) + 0.3)
    for line, row in zip(axes, rows, strict=True):
        for axis, label in zip(line, labels, strict=True):
            axis.grid(visible=False)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(True)
            axis.spines[:].set_color(GREY)
            picture = selected[(selected["row"] == row) & (selected["label"] == label)].iloc[0]
            pixels = cv2.imdecode(np.frombuffer(picture["png"], np.uint8), cv2.IMREAD_UNCHANGED)
            if pixels is None:
                continue
            shown = pixels[..., ::-1] if pixels.ndim == 3 else pixels
            axis.imshow(shown, cmap=None if pixels.ndim == 3 else "gray", vmin=0, vmax=255, interpolation="nearest")
            if row == rows[0]:
                axis.set_title(names[int(label)], fontsize=8)
            if row != "private":
                queries = f"{int(picture['query']):,}{'' if picture['blocked'] else '+'}"
                axis.set_xlabel(f"{queries} · {float(picture['evaluator_confidence']):.2f}", fontsize=6.5, labelpad=2)
        line[0].set_ylabel(title(row).replace("private", "training image"), fontsize=8, rotation=0, ha="right",
                           va="center", labelpad=8)  # fmt: skip
    return save(figure, out, f"pictures-{half.lower()}")
