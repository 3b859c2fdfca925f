"""Figures of attackers: Figures 6 and 7 of the paper, survival curves, and the noise sweep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from mifsim.statistics import kaplan_meier
from reports.paper.attack_tables import by_label, nearest_noise, noises
from reports.paper.drawing import COLOURS, DASHES, INK, MARKERS, PAPER, head, save, sheet, title
from reports.paper.load import Results
from reports.paper.published_tables import CONFIGS, attacks
from reports.paper.readings import families, nearest_sweep_row, published_medians, reading_table

_WHOLE = FuncFormatter(lambda value, _: f"{value:,.0f}")


def iterations(results: Results, half: str, out: Path) -> str:
    """Draw Figure 6 or 7: maximum iterations per label of the paper and of the reproduction, with its medians."""
    figure, axes = sheet(3, height=3.6, sharey=True)
    published = attacks(half)
    names = results.classes(half)
    budget = float(results.facts(half)["budget"])
    positions = np.arange(len(names))
    for axis, config in zip(axes[0], CONFIGS, strict=True):
        noise = nearest_noise(results, half, config)
        matched_noise, reproduced = nearest_sweep_row(results, half, config)
        reproduced = reproduced.reindex(names)
        medians = by_label(results, half, noise)
        medians = medians[medians["config"] == config].set_index("label").reindex(names)
        axis.bar(
            positions - 0.2, published[config], 0.38, color="#c9ced6", edgecolor=PAPER, linewidth=0.6, label="paper"
        )
        axis.bar(positions + 0.2, reproduced.fillna(budget), 0.38, color=COLOURS[config], alpha=0.75,
                 label="reproduced, maximum of 3")  # fmt: skip
        for position, value in zip(positions, reproduced, strict=True):
            if np.isnan(value):
                axis.annotate(
                    "never", (position + 0.2, budget * 1.08), ha="center", va="bottom", fontsize=6, rotation=90
                )
        median = medians["median"].fillna(budget).to_numpy()
        low, high = medians["low"].fillna(budget).to_numpy(), medians["high"].fillna(budget).to_numpy()
        trials = int(medians["trials"].max())
        axis.errorbar(positions + 0.2, median, [np.maximum(0, median - low), np.maximum(0, high - median)], fmt="o",
                      color=INK, markersize=3, linewidth=1, label=f"median of {trials}, 95% band")  # fmt: skip
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(_WHOLE)
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xticks(positions, names, fontsize=7 if len(names) > 4 else 8)
        head(axis, f"{title(config)}; bars: noise {matched_noise:g}, points: {noise:g}")
        axis.set_ylim(3, max(budget, float(published[list(CONFIGS)].to_numpy().max())) * 2.2)
    axes[0][0].set_ylabel("iterations before detection", fontsize=8)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7.5,
                  frameon=False)  # fmt: skip
    return save(figure, out, f"iterations-{half.lower()}")


def noise_sweep(results: Results, half: str, out: Path) -> str:
    """Draw the three rows against the noise in up to four readings, with the paper's rows as dashed lines."""
    by_name = dict(families(reading_table(results, half)))
    panels = [name for name in ("as written", "noise on the submitted copy only", "8-bit transport",
                                "C1, C2 for range 255") if name in by_name]  # fmt: skip
    figure, axes = sheet(len(panels), height=3.2, width=2.6 * len(panels) + 1, sharey=True)
    medians = published_medians(half)
    budget = float(results.facts(half)["sweep budget"])
    for axis, name in zip(axes[0], panels, strict=True):
        table = by_name[name].sort_values("noise")
        for config in CONFIGS:
            axis.axhline(medians[config], color=COLOURS[config], linewidth=1, linestyle=(0, (4, 3)), alpha=0.8)
            finite = np.isfinite(table[config])
            height = table[config].where(finite, 1.15 * budget)
            axis.plot(table["noise"], height, color=COLOURS[config], linewidth=1.4, label=title(config))
            for mask, face in ((finite, COLOURS[config]), (~finite, "white")):
                axis.plot(table["noise"][mask], height[mask], linestyle="", marker=MARKERS[config],
                          markersize=4.5, markerfacecolor=face, markeredgecolor=COLOURS[config])  # fmt: skip
        axis.set_xscale("symlog", linthresh=2e-4, linscale=0.4)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(_WHOLE)
        axis.set_xticks([0, 0.001, 0.01, 0.1], ["0", "0.001", "0.01", "0.1"])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("noise (sd, pixels 0 to 1)", fontsize=8)
        head(axis, name)
    axes[0][0].set_ylabel("iterations before detection\n(median over labels; hollow: never)", fontsize=8)
    axes[0][0].legend(fontsize=7, frameon=False)
    return save(figure, out, f"noise-{half.lower()}")


def survival(results: Results, half: str, out: Path) -> str:
    """Draw the share of attackers not yet blocked against the number of queries, one panel per noise level."""
    levels = noises(results, half)
    figure, axes = sheet(len(levels), height=3.0, width=3.2 * len(levels) + 0.4, sharey=True)
    for axis, noise in zip(axes[0], levels, strict=True):
        table = results.attacks[(results.attacks["dataset"] == half) & (results.attacks["noise"] == noise)]
        for config in results.config_names(half):
            selected = table[table["config"] == config]
            curve = kaplan_meier(
                selected["queries_to_block"].fillna(selected["budget_queries"]), selected["queries_to_block"].notna()
            )
            axis.step(np.maximum(curve.queries, 1), curve.open, where="post", color=COLOURS[config], linewidth=1.7,
                      linestyle=DASHES[config], label=title(config))  # fmt: skip
            axis.fill_between(np.maximum(curve.queries, 1), curve.low, curve.high, step="post", color=COLOURS[config],
                              alpha=0.15, linewidth=0)  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(_WHOLE)
        axis.set_xlim(1, float(table["budget_queries"].max()))
        axis.set_ylim(-0.02, 1.03)
        axis.set_xlabel("queries", fontsize=8)
        head(axis, f"noise {noise:g}, {len(table[table['config'] == 'config_1'])} attackers")
    axes[0][0].set_ylabel("not yet blocked", fontsize=8)
    axes[0][0].legend(fontsize=7, frameon=False, loc="lower left")
    return save(figure, out, f"survival-{half.lower()}")
