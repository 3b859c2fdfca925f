"""The page of a watch: evidence over time, coverage, and how the log was used. It works offline."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from markupsafe import Markup

from mifsim.cache import atomic_write
from mifsim.watch.evidence import Floats, share_bounds
from mifsim.watch.findings import Findings, starts_of
from mifsim.watch.monitor import BLOCKED, CHANGE, NEAR_MISSES
from mifsim.watch.near_misses import BINS, worst_shares
from reports.charts import Chart
from reports.figures import Figure
from reports.page import load_template
from reports.styles import CHOSEN, OTHER, Style
from reports.wording import percent

_POINTS = 1500
"""Number of points of a curve, at most about."""
_FORMS = 20
"""Number of shapes, and of formats, that the table shows: the most frequent ones."""
_LEAST = 1e-4
"""Smallest evidence shown, as a share of that of an alarm."""
_LIMIT = {"color": "#d55e00", "width": 1.5, "dash": "4px,3px"}
_STYLES = {
    BLOCKED: CHOSEN,
    CHANGE: Style("#009e73", "8px,3px", "8 3", "diamond"),
    NEAR_MISSES: OTHER,
}


def write_watch_page(path: Path, findings: Findings, log: str, filter_name: str) -> None:
    """Write the page of a watch.

    Parameters
    ----------
    path : Path
    findings : Findings
    log, filter_name : str
        Names of the log and the filter, as the page shows them.
    """
    page = render_watch(findings, log, filter_name)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_watch(findings: Findings, log: str, filter_name: str) -> str:
    """Return the page of a watch as HTML; see `write_watch_page`."""
    from plotly.offline import get_plotlyjs

    coverage = findings.log.coverage
    forms = [
        (name or "not stated", f"{count:,}", coverage.share(count))
        for found in (coverage.shapes, coverage.formats)
        for name, count in sorted(found.items(), key=lambda item: -item[1])[:_FORMS]
    ]
    return load_template("watch.html.j2").render(
        findings=findings,
        log=log,
        filter=filter_name,
        forms=forms,
        charts=_charts(findings),
        plotly=Markup(get_plotlyjs()),  # noqa: S704
    )


def _charts(findings: Findings) -> list[Chart]:
    if not findings.log.sessions:
        return []
    charts = [
        Chart(
            "evidence",
            "Evidence over time, as a share of that of an alarm",
            evidence_figure(findings),
            "Each point is the evidence after a session, at the time at which the session started.",
        ),
        Chart(
            "share",
            "Share of sessions blocked so far",
            share_figure(findings),
            "The band is valid at all times: both bounds together are ever wrong with probability at most "
            f"{2 * findings.monitor.levels.delta:.3g}.",
        ),
    ]
    if findings.monitor.baseline is not None:
        charts.append(Chart("nearness", "Sessions by how near they came to a block", nearness_figure(findings)))
    return charts


def evidence_figure(findings: Findings) -> Figure:
    """Return the evidence of each watch after each session, as a share of that of an alarm (log scale)."""
    shown = _shown(findings)
    starts = starts_of([findings.log.sessions[i] for i in shown])
    thresholds = findings.monitor.levels.thresholds()
    data = []
    for name, path in zip((BLOCKED, CHANGE, NEAR_MISSES), findings.paths, strict=True):
        if name == NEAR_MISSES and findings.monitor.baseline is None:
            continue
        share = np.exp(np.clip(path[shown] - thresholds[name], math.log(_LEAST), math.log(1e9)))
        style = _STYLES[name]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": starts,
                "y": [float(f"{value:.4g}") for value in share],
                "line": {"color": style.colour, "dash": style.dash, "width": 2},
                "hovertemplate": f"{name}: %{{y:.3g}} of an alarm, %{{x}}<extra></extra>",
            }
        )
    layout = {
        "height": 340,
        "xaxis": {"type": "date", "title": {"text": "start of the session (UTC)"}},
        "yaxis": {"type": "log", "exponentformat": "power", "title": {"text": "evidence / alarm (log scale)"}},
        "showlegend": True,
        "shapes": [_line(1.0)],
    }
    return {"data": data, "layout": layout}


def share_figure(findings: Findings) -> Figure:
    """Return the share of blocked sessions after each session, with its bounds and the promised limit."""
    shown, monitor = _shown(findings), findings.monitor
    sessions = findings.log.sessions
    starts = starts_of([sessions[i] for i in shown])
    numbers = shown + 1
    blocked = np.cumsum([monitor.cut.blocked(session) for session in sessions])[shown]
    low, high = share_bounds(numbers, blocked, monitor.levels.delta)
    edge = {"type": "scatter", "mode": "lines", "x": starts, "hoverinfo": "skip", "showlegend": False}
    hover = [
        f"{hits:,} of {total:,} sessions blocked: {percent(hits / total)}; at least {percent(below)}, at most "
        f"{percent(above)}"
        for hits, total, below, above in zip(
            blocked.tolist(), numbers.tolist(), low.tolist(), high.tolist(), strict=True
        )
    ]
    data = [
        {**edge, "y": _rounded(low), "line": {"width": 0}},
        {**edge, "y": _rounded(high), "line": {"width": 0}, "fill": "tonexty", "fillcolor": CHOSEN.faint(0.15)},
        {
            **edge,
            "y": _rounded(blocked / numbers),
            "line": {"color": CHOSEN.colour, "width": 2},
            "hovertext": hover,
            "hoverinfo": "text",
        },
    ]
    limit = monitor.levels.limit
    top = min(1.0, max(3 * limit, 1.5 * float(blocked[-1] / numbers[-1]), float(low.max()) * 1.2))
    layout = {
        "height": 300,
        "xaxis": {"type": "date", "title": {"text": "start of the session (UTC)"}},
        "yaxis": {"range": [0, top], "tickformat": ".1%", "title": {"text": "share of sessions blocked"}},
        "shapes": [_line(limit)],
    }
    return {"data": data, "layout": layout}


def nearness_figure(findings: Findings) -> Figure:
    """Return the share of sessions whose largest count reached a share of the limit, and that of the calibration."""
    monitor = findings.monitor
    assert monitor.baseline is not None
    shares = [f"{bin_ / 10:g}" for bin_ in range(1, BINS - 1)] + ["blocked"]
    curves = (
        ("traffic", worst_shares([monitor.histogram]), CHOSEN),
        ("worst workload of the calibration", worst_shares(monitor.baseline.histograms), OTHER),
    )
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": shares,
            "y": [value or None for value in _rounded(values[1:])],  # a logarithmic axis has no 0
            "line": {"color": style.colour, "dash": style.dash, "width": 2},
            "marker": {"symbol": style.symbol, "size": 8, "color": style.colour},
            "hovertemplate": f"{name}: %{{y:.2%}} reached %{{x}}<extra></extra>",
        }
        for name, values, style in curves
    ]
    layout = {
        "height": 300,
        "xaxis": {"type": "category", "title": {"text": "largest count of the session / count that blocks, at least"}},
        "yaxis": {"type": "log", "tickformat": ".2~%", "dtick": 1, "title": {"text": "share of sessions (log scale)"}},
        "showlegend": True,
    }
    return {"data": data, "layout": layout}


def _shown(findings: Findings) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the sessions of which a curve has a point: evenly spaced ones, the last one, and alarms."""
    number = len(findings.log.sessions)
    chosen = set(np.linspace(0, number - 1, min(number, _POINTS)).astype(int).tolist())
    alarms = set(findings.monitor.alarms.values())
    chosen |= {i for i, session in enumerate(findings.log.sessions) if session.start in alarms}
    return np.array(sorted(chosen), np.int64)


def _line(height: float) -> Figure:
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height, "line": _LIMIT}


def _rounded(values: Floats) -> list[float]:
    return [float(value) for value in np.round(values, 5)]
