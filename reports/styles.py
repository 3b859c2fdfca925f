"""Colour, line style and symbol of each filter, the same in every chart of a page.

The colours are based on the Okabe-Ito palette, which is suitable for colour-blind readers; some are adjusted for
contrast on both a white and a dark page. No chart distinguishes filters by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CALIBRATED = "calibrated"
"""Name of the filter with the configuration that a calibration chose."""


@dataclass(frozen=True)
class Style:
    """Graphical style of one filter.

    Attributes
    ----------
    colour : str
        As ``#rrggbb``.
    dash : str
        Line style, as Plotly's ``dash``.
    strokes : str
        Line style, as SVG's ``stroke-dasharray``.
    symbol : str
        Marker, as Plotly's ``symbol``.
    width : float
        Line width, in pixels.
    """

    colour: str
    dash: str
    strokes: str
    symbol: str
    width: float = 2.0

    def faint(self, opacity: float) -> str:
        """Return the colour with an opacity in [0, 1], as ``rgba(...)``."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


CHOSEN = Style("#2a80c8", "solid", "none", "star", 3.0)
OTHER = Style("#b38600", "12px,3px", "12 3", "pentagon")
_UNDEFENDED = Style("#868c96", "2px,3px", "2 3", "x-thin-open")
_OTHERS = (
    Style("#d55e00", "8px,3px", "8 3", "square"),
    Style("#009e73", "3px,2px", "3 2", "diamond"),
    Style("#c264a0", "8px,3px,2px,3px", "8 3 2 3", "triangle-up"),
    OTHER,
    Style("#7d6bd0", "5px,2px,1px,2px", "5 2 1 2", "cross"),
)


def styles(filters: Sequence[str], undefended: Sequence[str]) -> dict[str, Style]:
    """Return a style for each filter.

    Parameters
    ----------
    filters : sequence of str
        Names of all filters.
    undefended : sequence of str
        Names of those of kind ``none``.
    """
    others = [name for name in filters if name != CALIBRATED and name not in undefended]
    known = {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(others)}
    return {name: known.get(name, CHOSEN if name == CALIBRATED else _UNDEFENDED) for name in filters}
