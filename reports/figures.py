"""Plotly figures of the report page, as plain dictionaries with the keys ``data`` and ``layout``.

The same tables give the same figures. The page sets the colours of text and grid, because they depend on whether the
reader's screen is light or dark. Names are escaped, because Plotly interprets markup in text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from mifsim.statistics import Survival
from reports.styles import CHOSEN, OTHER, Style
from reports.wording import describe, limit, percent, queries

Figure = dict[str, Any]

_RATES = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
_GREY = "#868c96"
_FOUND = "#7d6bd0"
_LIMIT = {"color": "#d55e00", "width": 1.5, "dash": "4px,3px"}


def pareto_figure(
    pareto: pd.DataFrame, trials: pd.DataFrame | None, allowed: float | None, look: Mapping[str, Style]
) -> Figure:
    """Return the scatter plot of false-positive rate (x) and mean queries to block (y), one point per configuration.

    Parameters
    ----------
    pareto, trials : DataFrame
        Results of `reports.tables.pareto_table` and `trial_table`. The trials are in the background; may be None.
    allowed : float or None
        The largest false-positive limit, in [0, 1], drawn as a vertical line.
    look : mapping of filter to Style
        For the configurations that the study gives.
    """
    data = []
    if trials is not None and len(trials):
        data.append({**_points(trials, "search trials", _GREY, "circle", 4), "opacity": 0.35, "hoverinfo": "skip"})
    reference = pareto[pareto["source"] == "reference"].sort_values("false_positive_rate")
    if len(reference):
        line = {"color": _GREY, "width": 1.5, "shape": "hv"}
        points = _points(reference, "reference front", _GREY, "circle", 4)
        data.append({**points, "mode": "lines+markers", "line": line})
    candidates = pareto[~pareto["chosen"].eq(True)]
    certified = candidates["certified"].eq(True)
    searched, conservative = candidates["source"] == "search", candidates["source"] == "conservative"
    for rows, name, symbol, size in (
        (candidates[searched & ~certified], "found by the search, not certified", "circle-open", 9),
        (candidates[conservative & ~certified], "conservative candidates, not certified", "diamond-open", 9),
        (candidates[certified], "certified", "circle", 10),
    ):
        if len(rows):
            data.append(_points(rows, name, _FOUND, symbol, size))
    given = pareto[pareto["source"] == "given"]
    places = given.groupby(["false_positive_rate", "queries_to_block"])["name"]
    # Configurations at the same position share a label, so that labels do not overlap.
    labels = {names.index[0]: escape(", ".join(map(str, names))) for _, names in places}
    for index, row in given.iterrows():
        style = look.get(str(row["name"]), OTHER)
        name = escape(str(row["name"]))
        points = _points(row.to_frame().T.infer_objects(), name, style.colour, style.symbol, 11)
        side = "middle left" if row["false_positive_rate"] > 0.1 else "middle right"
        data.append({**points, "mode": "markers+text", "text": [labels.get(index, "")], "textposition": side})
    chosen = pareto[pareto["chosen"].eq(True)]
    if len(chosen):
        points = _points(chosen.iloc[:1], "chosen", CHOSEN.colour, CHOSEN.symbol, 18)
        data.append({**points, "mode": "markers+text", "text": ["<b>chosen</b>"], "textposition": "top right"})
    largest = float(pareto["false_positive_rate"].max())
    rates = _rate_axis("highest false-positive rate of a workload, on the search split", max(largest, allowed or 0.0))
    layout = {
        "height": 440,
        "xaxis": rates,
        "yaxis": _log_axis("mean queries to block", pareto["queries_to_block"].min(), pareto["queries_to_block"]),
        "showlegend": True,
        "shapes": [] if allowed is None else [_limit_line(allowed)],
        "annotations": [] if allowed is None else [_limit_label(allowed)],
    }
    return {"data": data, "layout": layout}


def _points(rows: pd.DataFrame, name: str, colour: str, symbol: str, size: int) -> Figure:
    hover = [
        f"{name}<br>{percent(row['false_positive_rate'])} false positives, "
        f"{queries(row['queries_to_block'])} queries to block<br>{escape(describe(row))}" + _p_value(row.get("p_value"))
        for _, row in rows.iterrows()
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": _rounded(np.sqrt(rows["false_positive_rate"].to_numpy(dtype=float))),
        "y": _rounded(rows["queries_to_block"].to_numpy(dtype=float)),
        "marker": {"color": colour, "symbol": symbol, "size": size},
        "hovertext": hover,
        "hoverinfo": "text",
    }


def _p_value(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"<br>certification: p = {value:.3g}"


def survival_figure(curves: Mapping[str, Survival], look: Mapping[str, Style], budget: int) -> Figure:
    """Return the survival curves of one attack: share of attackers not yet blocked (y) by queries sent (x).

    The bands are pointwise 95% intervals. Each starts at the filter's first block.

    Parameters
    ----------
    curves : mapping of filter to Survival
    look : mapping of filter to Style
    budget : int
        Query budget of an attacker; the x-axis ends there.
    """
    data: list[Figure] = []
    first = 0.8  # start of the logarithmic x-axis, which cannot show query 0
    for name, curve in curves.items():
        style = look[name]
        steps = np.append(np.maximum(curve.queries, first), max(budget, curve.queries[-1]))
        share, low, high = (np.append(values, values[-1]) for values in (curve.open, curve.low, curve.high))
        trace = {"type": "scatter", "mode": "lines", "x": _rounded(steps), "hoverinfo": "skip", "showlegend": False}
        after_block = share < 1  # before the first block, the bands of all filters would coincide
        if after_block.any():
            edge = {**trace, "x": _rounded(steps[after_block]), "line": {"width": 0, "shape": "hv"}}
            data.append({**edge, "y": _rounded(low[after_block])})
            data.append({**edge, "y": _rounded(high[after_block]), "fill": "tonexty", "fillcolor": style.faint(0.15)})
        line = {"color": style.colour, "width": style.width, "dash": style.dash, "shape": "hv"}
        hover = [
            f"{escape(name)}: {percent(value)} not blocked after {queries(x)} queries "
            f"(95% interval {percent(below)} to {percent(above)})"
            for x, value, below, above in zip(curve.queries, curve.open, curve.low, curve.high, strict=True)
        ]
        text = {"hovertext": [*hover, hover[-1]], "hoverinfo": "text"}
        data.append({**trace, "y": _rounded(share), "line": line, **text})
    layout = {
        "height": 280,
        "xaxis": _log_axis("queries sent", first, [budget]),
        "yaxis": {"range": [-0.03, 1.03], "tickformat": ".0%", "title": {"text": "attackers not yet blocked"}},
    }
    return {"data": data, "layout": layout}


def false_positive_figure(users: pd.DataFrame, look: Mapping[str, Style], limits: Mapping[str, float]) -> Figure:
    """Return the share of honest sessions blocked, with its exact 95% interval, by workload and filter.

    Parameters
    ----------
    users : DataFrame
        As `reports.tables.user_table` returns it, without undefended filters.
    look : mapping of filter to Style
    limits : mapping of workload to float
        False-positive limits of the certification, in [0, 1]; empty without a certification.
    """
    workloads = list(dict.fromkeys(users["workload"]))
    filters = list(dict.fromkeys(users["filter"]))
    middle = {name: -float(place) for place, name in enumerate(workloads)}
    step = 0.7 / max(1, len(filters) - 1) if len(filters) > 1 else 0.0
    data = []
    for place, name in enumerate(filters):
        rows = users[users["filter"] == name]
        rate = np.sqrt(rows["false_positive_rate"].to_numpy(dtype=float))
        low, high = (np.sqrt(rows[end].to_numpy(dtype=float)) for end in ("low", "high"))
        offset = step * ((len(filters) - 1) / 2 - place)
        hover = [
            f"{escape(name)}, {escape(row['workload'])}: {row['blocked']} of {row['sessions']} sessions blocked, "
            f"{percent(row['false_positive_rate'])} (95% interval {percent(row['low'])} to {percent(row['high'])})"
            for row in rows.to_dict("records")
        ]
        bars = {"type": "data", "symmetric": False, "array": _rounded(high - rate), "arrayminus": _rounded(rate - low)}
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": _rounded(rate),
                "y": [round(middle[workload] + offset, 4) for workload in rows["workload"]],
                "error_x": {**bars, "color": look[name].colour, "thickness": 2, "width": 4},
                "marker": {"color": look[name].colour, "symbol": look[name].symbol, "size": 10},
                "hovertext": hover,
                "hoverinfo": "text",
                "showlegend": False,
            }
        )
    shapes = [
        {**_limit_line(rate), "yref": "y", "y0": middle[workload] - 0.48, "y1": middle[workload] + 0.48}
        for workload, rate in limits.items()
        if workload in middle
    ]
    layout = {
        "height": 90 + 24 * len(workloads) * max(2, len(filters)),
        "xaxis": _rate_axis("share of honest sessions blocked", float(users["high"].max())),
        "yaxis": {
            "tickvals": [middle[name] for name in workloads],
            "ticktext": [escape(name) for name in workloads],
            "range": [-len(workloads) + 0.45, 0.55],
            "showgrid": False,
            "zeroline": False,
        },
        "shapes": shapes,
        "annotations": [_limit_label(max(limits.values()))] if shapes else [],
    }
    return {"data": data, "layout": layout}


def progress_figure(steps: Sequence[float], best: Sequence[float | None], title: str, *, share: bool) -> Figure:
    """Return the best value found (y) by number of trials (x).

    Parameters
    ----------
    steps, best : sequence of float
        Numbers of trials, and the best value after each; None if there is no value yet.
    title : str
        Title of the y-axis.
    share : bool
        Whether the values are shares in [0, 1]; otherwise they are numbers of queries, on a logarithmic axis.
    """
    shown = [None if value is None else round(value, 5) for value in best]
    known = [value for value in shown if value is not None]
    line = {"color": CHOSEN.colour, "width": 2.5, "shape": "hv"}
    unit = "%{y:.1%}" if share else "%{y:,.1f} queries"
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": list(steps),
            "y": shown,
            "line": line,
            "hovertemplate": f"after %{{x}} trials: {unit}<extra></extra>",
            "showlegend": False,
        }
    ]
    y_axis = (
        {"range": [0, 1.03], "tickformat": ".0%", "title": {"text": title}}
        if share
        else _log_axis(title, min(known, default=1.0), known or [10.0])
    )
    layout = {"height": 280, "xaxis": {"title": {"text": "search trials"}, "rangemode": "tozero"}, "yaxis": y_axis}
    return {"data": data, "layout": layout}


def _rate_axis(title: str, largest: float) -> Figure:
    """Return a square-root axis for rates: unlike a log axis it includes 0, and it resolves rates near 1%."""
    end = min(1.0, max(0.02, largest * 1.15))
    shown: list[float] = []
    for rate in _RATES:  # only as many ticks as fit on a narrow screen
        if (
            rate <= end
            and (end <= 0.15 or not 0 < rate < 0.01)
            and (not shown or np.sqrt(rate) - np.sqrt(shown[-1]) > 0.075 * np.sqrt(end))
        ):
            shown.append(rate)
    return {
        "title": {"text": f"{title}<br>(square-root scale)"},
        "range": [-0.03 * np.sqrt(end), round(float(np.sqrt(end)) * 1.03, 5)],
        "tickvals": _rounded(np.sqrt(shown)),
        "ticktext": ["0" if rate == 0 else limit(rate) for rate in shown],
        "tickangle": 0,
        "zeroline": False,
    }


def _log_axis(title: str, least: float, values: Sequence[float] | pd.Series) -> Figure:
    low, high = np.log10(least) - 0.08, np.log10(max(values)) + 0.08
    ticks = [m * 10**d for d in range(7) for m in (1, 2, 5) if low <= np.log10(m * 10**d) <= high]
    if len(ticks) > 7:
        ticks = [tick for tick in ticks if str(tick)[0] == "1"]
    return {
        "type": "log",
        "title": {"text": f"{title} (log scale)"},
        "range": _rounded(np.array([low, high])),
        "tickvals": ticks,
        "ticktext": [f"{tick:,}" for tick in ticks],
    }


def _limit_line(rate: float) -> Figure:
    x = round(float(np.sqrt(rate)), 5)
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": _LIMIT}


def _limit_label(rate: float) -> Figure:
    return {
        "x": round(float(np.sqrt(rate)), 5),
        "xanchor": "left",
        "xshift": 3,
        "y": 1,
        "yref": "paper",
        "yanchor": "top",
        "text": f"limit {limit(rate)}",
        "showarrow": False,
    }


def _rounded(values: Any) -> list[float]:
    return [float(value) for value in np.round(np.asarray(values, dtype=float), 5)]
