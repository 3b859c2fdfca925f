"""Markdown tables, and numbers as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.wording import percent

Cell = str | float | int | None


def whole(value: float | None, *, never: str = "never") -> str:
    """Return a number of queries; `never` where it is missing or infinite.

    Examples
    --------
    >>> whole(1234.4), whole(float("inf")), whole(7.25)
    ('1,234', 'never', '7.2')
    """
    if value is None or not math.isfinite(value):
        return never
    return f"{value:.1f}" if value < 10 and value != int(value) else f"{value:,.0f}"


def interval(low: float, high: float) -> str:
    """Return an interval of shares."""
    return f"{percent(low, brief=True)} to {percent(high, brief=True)}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1) -> str:
    """Return a Markdown table; the first `left` columns are aligned to the left, the others to the right.

    Examples
    --------
    >>> print(table(["a", "b"], [["x", 1]]))
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    rule = ["---" if place < left else "---:" for place in range(len(head))]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
