"""How each filter is drawn: the same colour, dash and symbol in every chart of a page.

Colours are of the Okabe-Ito set, which colour-blind readers tell apart, shifted where one would vanish on a white
or on a dark page. No chart relies on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CALIBRATED = "calibrated"
"""What a calibration calls the setting that it chose, when it runs live."""


@dataclass(frozen=True)
class Style:
    """One filter's look.

    Attributes
    ----------
    colour : str
        ``#rrggbb``.
    dash : str
        Plotly's name.
    strokes : str
        The same for SVG's ``stroke-dasharray``.
    symbol : str
        Plotly's name.
    width : float
        Of lines, in pixels.
    """

    colour: str
    dash: str
    strokes: str
    symbol: str
    width: float = 2.0

    def faint(self, opacity: float) -> str:
        """Return the colour as Plotly's ``rgba(...)``."""
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
    """Return a style for each filter; `undefended` names those that filter nothing."""
    others = [name for name in filters if name != CALIBRATED and name not in undefended]
    known = {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(others)}
    return {name: known.get(name, CHOSEN if name == CALIBRATED else _UNDEFENDED) for name in filters}
