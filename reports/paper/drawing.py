"""The common style of the page's figures: palette, font sizes and white background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.styles import CHOSEN

COLOURS = {
    "config_1": "#d55e00",
    "config_2": "#009e73",
    "config_3": "#7d6bd0",
    "calibrated": CHOSEN.colour,
    "undefended": "#5f6570",
}
MARKERS = {"config_1": "s", "config_2": "D", "config_3": "^", "calibrated": "o", "undefended": "x"}
DASHES = {"config_1": "-", "config_2": (0, (5, 3)), "config_3": "-", "calibrated": "-", "undefended": ":"}
"""Dash patterns, which keep coinciding curves distinguishable."""
INK = "#20252b"
FAINT = "#d9dde3"
GREY = "#7a828d"
PAPER = "#111111"
"""Colour of the paper's values."""


def title(config: str) -> str:
    """Return the display name of a configuration.

    Examples
    --------
    >>> title("config_1"), title("calibrated")
    ('configuration 1', 'calibrated')
    """
    return config.replace("config_", "configuration ")


def sheet(columns: int, rows: int = 1, *, width: float = 9.6, height: float = 3.2, **more: Any) -> tuple[Figure, Any]:
    """Return a figure and its axes as an array of shape (rows, columns)."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **more)
    for axis in axes.ravel():
        style(axis)
    return figure, axes


def style(axis: Any) -> None:
    """Apply the common style to an axis."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)
    axis.tick_params(colors=INK, labelsize=8, length=3)
    axis.grid(axis="y", color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)


def head(axis: Any, text: str) -> None:
    """Set the title of an axis."""
    axis.set_title(text, fontsize=9, color=INK, loc="left")


def save(figure: Figure, out: Path, name: str) -> str:
    """Write ``figures/<name>.png`` in the folder `out`, and return this relative path."""
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", facecolor="white", metadata={"Software": None})
    return f"figures/{name}.png"
