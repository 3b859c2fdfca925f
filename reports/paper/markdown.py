"""Markdown tables, and the number formats of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports.wording import percent

Cell = str | float | int | None


def format_count(value: float | None, *, never: str = "never") -> str:
    """Format a number of queries; return `never` if it is missing or infinite.

    Examples
    --------
    >>> format_count(1234.4), format_count(float("inf")), format_count(7.25)
    ('1,234', 'never', '7.2')
    """
    if value is None or not math.isfinite(value):
        return never
    return f"{value:.1f}" if value < 10 and value != int(value) else f"{value:,.0f}"


def interval(low: float, high: float) -> str:
    """Format an interval of shares."""
    return f"{percent(low, brief=True)} to {percent(high, brief=True)}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1) -> str:
    """Return a Markdown table with the first `left` columns left-aligned and the others right-aligned.

    Examples
    --------
    >>> print(table(["a", "b"], [["x", 1]]))
    | a | b |
    | --- | ---: |
    | x | 1 |
    """
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
